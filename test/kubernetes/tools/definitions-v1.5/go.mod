// Kinds as an earlier inference extension defined them: read from the module, nothing is built.
module signalbox-test-definitions

go 1.26.0

require sigs.k8s.io/gateway-api-inference-extension v1.5.0
