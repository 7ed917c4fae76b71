import { describe, expect, it } from "@jest/globals";
import { pluginStates, withoutSecrets } from "../../../src/app/debug-views.ts";
import type { Loaded } from "../../../src/config/instantiate.ts";

describe("a configuration that is shown", () => {
  it.each([
    "password",
    "dbPassword",
    "clientSecret",
    "api-key",
    "apiKey",
    "authToken",
    "token",
    "authorization",
    "credentials",
    "privateKey",
  ])("hides text under %s, at any depth", (name) => {
    expect(withoutSecrets({ [name]: "s3cret", nested: [{ [name]: "s3cret" }] })).toEqual({
      [name]: "(hidden)",
      nested: [{ [name]: "(hidden)" }],
    });
  });

  it("shows everything else as it is", () => {
    const parameters = {
      maxPrefixTokensToMatch: 5,
      blockSizeTokens: 16,
      tokenizerName: "llama",
      keyword: "x",
      token: 3,
      list: [1, null, "a"],
    };
    expect(withoutSecrets(parameters)).toEqual(parameters);
  });
});

describe("the state of plugins", () => {
  const loaded = (plugins: Readonly<Record<string, unknown>>) =>
    ({ instances: new Map(Object.entries(plugins).map(([name, plugin]) => [name, { plugin }])) }) as unknown as Loaded;

  it("is what they dump, and nothing for those that have none", () => {
    const states = pluginStates(
      loaded({ a: { dumpState: () => ({ sessions: 2 }) }, b: {}, c: undefined, d: { dumpState: 1 } }),
    );
    expect(states).toEqual({ a: { sessions: 2 } });
  });

  it("survives one that throws", () => {
    const broken = {
      dumpState: () => {
        throw new Error("no");
      },
    };
    expect(pluginStates(loaded({ broken, fine: { dumpState: () => 1 } }))).toEqual({
      broken: { error: "dumpState threw" },
      fine: 1,
    });
  });
});
