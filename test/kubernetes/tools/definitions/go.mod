// Kinds of the Gateway API and of its inference extension: read from the modules, nothing is built.
module signalbox-test-definitions

go 1.26.0

require (
	sigs.k8s.io/gateway-api v1.6.1
	sigs.k8s.io/gateway-api-inference-extension v1.6.0
)
