/** The interpreter with Dynamo's wheels, where there is one: DYNAMO_PYTHON, or what `make dynamo` installed. */
import { dynamoPython } from "../test/dynamo/process.ts";

/** Undefined: Dynamo's own figures are left out. */
export function interpreterWithWheels(): string | undefined {
  try {
    return dynamoPython();
  } catch {
    return undefined;
  }
}
