/** Tests with real gateways and pods, which need namespaces of their own: in-namespace.ts starts them. */
import kubernetes from "../jest.config.mjs";

export default {
  ...kubernetes,
  rootDir: "../../..",
  testMatch: ["<rootDir>/test/kubernetes/gateway/**/*.test.ts", "<rootDir>/test/kubernetes/kubelet/**/*.test.ts"],
  testPathIgnorePatterns: [],
  testTimeout: 300_000,
};
