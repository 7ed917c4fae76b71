import { describe, expect, it } from "@jest/globals";
import type { ProfileOutcome } from "../../../../src/scheduling/contracts.ts";
import { headerProfileHandler } from "../../../../src/scheduling/plugins/handlers/header-profile-handler.ts";
import { singleProfileHandler } from "../../../../src/scheduling/plugins/handlers/single-profile-handler.ts";
import { destinationEndpointServedVerifier } from "../../../../src/scheduling/plugins/response/destination-endpoint-served-verifier.ts";
import { assignment, create, cycle, endpointsOf, request } from "../cycle-fixtures.ts";

const nothing: ReadonlyMap<string, ProfileOutcome> = new Map();
const ran: ReadonlyMap<string, ProfileOutcome> = new Map([["decode", { kind: "no-endpoints", filter: "f" }]]);

describe("single-profile-handler", () => {
  const handler = create(singleProfileHandler);
  it("runs its profile once and makes it the primary", () => {
    expect(handler.nextProfiles(cycle(), ["decode"], nothing)).toEqual(["decode"]);
    expect(handler.nextProfiles(cycle(), ["decode"], ran)).toEqual([]);
    expect(handler.primaryProfile(cycle(), ran)).toBe("decode");
  });
});

describe("header-profile-handler", () => {
  const profiles = ["prefill", "decode"];
  it.each<[object, Record<string, string>, string[]]>([
    [{}, { "epp-profile": "prefill" }, ["prefill"]],
    [{}, { "epp-profile": "  decode " }, ["decode"]],
    [{}, {}, ["decode"]],
    [{}, { "epp-profile": "   " }, ["decode"]],
    [{ defaultProfile: "prefill" }, {}, ["prefill"]],
    [{ headerName: "X-Stage" }, { "x-stage": "prefill", "epp-profile": "decode" }, ["prefill"]],
  ])("with %j runs for headers %j the profile %j", (parameters, headers, expected) => {
    expect(create(headerProfileHandler, parameters).nextProfiles(cycle({ headers }), profiles, nothing)).toEqual(
      expected,
    );
  });

  it("answers an unknown profile with 400 and does not repeat what the client sent", () => {
    const answer = create(headerProfileHandler).nextProfiles(
      cycle({ headers: { "epp-profile": "<x>" } }),
      profiles,
      nothing,
    );
    expect(answer).toMatchObject({ code: "BadRequest", param: "EPP-Profile", errorCode: "unknown_profile" });
    expect(JSON.stringify(answer)).not.toContain("<x>");
  });

  it("answers 429 when the default profile is not configured", () => {
    expect(create(headerProfileHandler).nextProfiles(cycle(), ["a", "b"], nothing)).toMatchObject({
      code: "ResourceExhausted",
    });
  });

  it("runs the only profile whatever the header says", () => {
    const headers = { "epp-profile": "elsewhere" };
    expect(create(headerProfileHandler).nextProfiles(cycle({ headers }), ["only"], nothing)).toEqual(["only"]);
  });

  it("runs one profile a request and makes it the primary", () => {
    const handler = create(headerProfileHandler);
    expect(handler.nextProfiles(cycle(), profiles, ran)).toEqual([]);
    expect(handler.primaryProfile(cycle(), ran)).toBe("decode");
  });
});

describe("destination-endpoint-served-verifier", () => {
  it.each<[string | undefined, string]>([
    ["10.0.0.1:8000", "10.0.0.1:8000"],
    [undefined, "fail: missing destination endpoint served metadata"],
  ])("tells the client that %j served", (served, expected) => {
    const set: string[][] = [];
    create(destinationEndpointServedVerifier).responseHeaders?.(
      request(),
      assignment(endpointsOf({})),
      { status: 200, served },
      { set: (...header) => set.push(header) },
    );
    expect(set).toEqual([["x-conformance-test-served-endpoint", expected]]);
  });
});
