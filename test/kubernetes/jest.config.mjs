/** Tests against a real Kubernetes API server (`make test-k8s`), which the root configuration leaves out. */
import root from "../../jest.config.mjs";

export default {
  ...root,
  rootDir: "../..",
  testMatch: ["<rootDir>/test/kubernetes/**/*.test.ts"],
  testPathIgnorePatterns: [],
  testTimeout: 120_000,
};
