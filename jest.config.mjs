/** Jest runs the sources as ES modules; Node's own type stripping is the only transform. */
export default {
  testEnvironment: "node",
  extensionsToTreatAsEsm: [".ts"],
  transform: { "\\.ts$": "./scripts/jest-strip-types.mjs" },
  testMatch: ["<rootDir>/test/**/*.test.ts"],
  // They need what `make dynamo` and `make k8s-tools` install, and have configurations of their own.
  testPathIgnorePatterns: ["<rootDir>/test/dynamo/", "<rootDir>/test/kubernetes/"],
  modulePathIgnorePatterns: ["<rootDir>/dist/", "<rootDir>/.cache/"],
  coverageProvider: "v8",
  // A bound of what hangs, with room for a machine that others keep busy: no test is to take long.
  testTimeout: 30_000,
};
