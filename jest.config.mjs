/** Jest runs the sources as ES modules; Node's own type stripping is the only transform. */
export default {
  testEnvironment: "node",
  extensionsToTreatAsEsm: [".ts"],
  transform: { "\\.ts$": "./scripts/jest-strip-types.mjs" },
  testMatch: ["<rootDir>/test/**/*.test.ts"],
  // Needs what `make dynamo` installs; it has a configuration of its own.
  testPathIgnorePatterns: ["<rootDir>/test/dynamo/"],
  modulePathIgnorePatterns: ["<rootDir>/dist/", "<rootDir>/.cache/"],
  coverageProvider: "v8",
};
