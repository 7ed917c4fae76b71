/** Tests against a real Kubernetes API server (`make test-k8s`), which the root configuration leaves out. */
import root from "../../jest.config.mjs";

export default {
  ...root,
  rootDir: "../..",
  testMatch: ["<rootDir>/test/kubernetes/**/*.test.ts"],
  // Those run in namespaces of their own, by a configuration of their own.
  testPathIgnorePatterns: ["<rootDir>/test/kubernetes/gateway/", "<rootDir>/test/kubernetes/kubelet/"],
  testTimeout: 120_000,
};
