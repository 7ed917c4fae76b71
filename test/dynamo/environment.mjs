/** Node's test environment that remembers whether a test or hook of the file has failed, so that a stack shows its logs only then. */
import { TestEnvironment } from "jest-environment-node";

export default class DynamoTestEnvironment extends TestEnvironment {
  handleTestEvent(event) {
    const failed = event.name === "hook_failure" || (event.name === "test_done" && event.test.errors.length > 0);
    if (failed) this.global.dynamoTestFailed = true;
  }
}
