/** Runs the profile that a request header names, else the default profile; with one profile configured there is nothing to choose. */
import {
  type Cycle,
  type PluginDefinition,
  type ProfileHandler,
  type ProfileOutcome,
  type Rejection,
  reject,
} from "../../contracts.ts";

interface Parameters {
  readonly headerName: string;
  readonly defaultProfile: string;
}

const none: readonly string[] = Object.freeze([]);

class HeaderProfileHandler implements ProfileHandler {
  readonly #headerName: string;
  readonly #header: string;
  readonly #defaultProfile: string;

  constructor({ headerName, defaultProfile }: Parameters) {
    this.#headerName = headerName.trim();
    this.#header = this.#headerName.toLowerCase();
    this.#defaultProfile = defaultProfile.trim();
  }

  nextProfiles(
    { request }: Cycle,
    profiles: readonly string[],
    outcomes: ReadonlyMap<string, ProfileOutcome>,
  ): readonly string[] | Rejection {
    if (outcomes.size > 0) return none;
    if (profiles.length === 1) return profiles;
    const named = request.headers.get(this.#header)?.trim() ?? "";
    const name = named === "" ? this.#defaultProfile : named;
    if (profiles.includes(name)) return [name];
    return named === ""
      ? reject(
          "ResourceExhausted",
          `failed to find target endpoint: defaultProfile '${this.#defaultProfile}' is not a configured scheduling profile`,
        )
      : reject("BadRequest", `header ${this.#headerName} names no configured scheduling profile`, {
          errorCode: "unknown_profile",
          param: this.#headerName,
        });
  }

  primaryProfile(_cycle: Cycle, outcomes: ReadonlyMap<string, ProfileOutcome>): string | Rejection {
    for (const name of outcomes.keys()) return name;
    return "";
  }
}

export const headerProfileHandler: PluginDefinition<Parameters, ProfileHandler> = {
  type: "header-profile-handler",
  kinds: ["profile-handler"],
  summary: "Runs the scheduling profile that a request header names; a name that is not configured is answered 400.",
  parameters: {
    type: "object",
    additionalProperties: false,
    properties: {
      headerName: {
        type: "string",
        minLength: 1,
        default: "EPP-Profile",
        description: "Request header that names the profile.",
      },
      defaultProfile: {
        type: "string",
        minLength: 1,
        default: "decode",
        description: "Profile of requests without the header.",
      },
    },
  },
  create: (parameters) => new HeaderProfileHandler(parameters),
};
