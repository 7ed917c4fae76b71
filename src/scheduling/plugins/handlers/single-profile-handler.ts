/** Runs the one profile there is and makes it the primary. */
import type { Cycle, PluginDefinition, ProfileHandler, ProfileOutcome, Rejection } from "../../contracts.ts";

const none: readonly string[] = Object.freeze([]);

class SingleProfileHandler implements ProfileHandler {
  nextProfiles(
    _cycle: Cycle,
    profiles: readonly string[],
    outcomes: ReadonlyMap<string, ProfileOutcome>,
  ): readonly string[] {
    return outcomes.size === 0 ? profiles : none;
  }

  primaryProfile(_cycle: Cycle, outcomes: ReadonlyMap<string, ProfileOutcome>): string | Rejection {
    for (const name of outcomes.keys()) return name;
    return "";
  }
}

export const singleProfileHandler: PluginDefinition<object, ProfileHandler> = {
  type: "single-profile-handler",
  kinds: ["profile-handler"],
  summary: "Runs the only scheduling profile; refuses a configuration with several.",
  parameters: { type: "object", additionalProperties: false, properties: {} },
  create: () => new SingleProfileHandler(),
};
