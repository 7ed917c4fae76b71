// Package suite compiles the conformance suite to a program.
package suite

import (
	"testing"

	"sigs.k8s.io/gateway-api-inference-extension/conformance"
)

func TestGateway(t *testing.T) {
	conformance.RunConformance(t)
}
