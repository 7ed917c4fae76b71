import { describe, expect, it } from "@jest/globals";
import { readFleetSettings } from "../../../../src/prefill-router/fleet/fleet-settings.ts";

describe("settings of a fleet", () => {
  it("says of what is understood and changes nothing that it has no effect", () => {
    const variables = { DYN_ENABLE_SESSION_PREFIX_INDEX: "true" };
    expect(readFleetSettings({}, {})).toMatchObject({ warnings: [], faults: [] });
    expect(readFleetSettings(variables, {})).toMatchObject({
      warnings: [expect.stringContaining("enableSessionPrefixIndex has no effect")],
      faults: [],
    });
  });
});
