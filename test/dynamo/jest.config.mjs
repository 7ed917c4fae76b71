/** Tests against the real Dynamo (`make test-dynamo`), which the root configuration leaves out. */
import root from "../../jest.config.mjs";

export default {
  ...root,
  rootDir: "../..",
  testMatch: ["<rootDir>/test/dynamo/**/*.test.ts"],
  testPathIgnorePatterns: [],
  testEnvironment: "<rootDir>/test/dynamo/environment.mjs",
  testTimeout: 60_000,
};
