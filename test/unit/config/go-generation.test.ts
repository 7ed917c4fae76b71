/** Configurations of Dynamo's picker in Go, as its documentation and its operator write them. */
import { describe, expect, it } from "@jest/globals";
import { createPluginRegistry } from "../../../src/app/plugins.ts";
import { loadConfig } from "../../../src/config/load.ts";

const load = (text: string) => loadConfig(text, { registry: createPluginRegistry(), folder: "/", source: "test" });

const disaggregated = `
apiVersion: inference.networking.x-k8s.io/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: disagg-profile-handler
- name: prefill-filter
  type: label-filter
  parameters: {label: nvidia.com/dynamo-component-type, validValues: [prefill], allowsNoLabel: false}
- name: decode-filter
  type: label-filter
  parameters: {label: nvidia.com/dynamo-component-type, validValues: [decode], allowsNoLabel: true}
- {name: picker, type: max-score-picker}
- {name: dyn-prefill, type: dyn-prefill-scorer}
- {name: dyn-decode, type: dyn-decode-scorer}
schedulingProfiles:
- name: prefill
  plugins: [{pluginRef: prefill-filter}, {pluginRef: dyn-prefill, weight: 1}, {pluginRef: picker}]
- name: decode
  plugins: [{pluginRef: decode-filter}, {pluginRef: dyn-decode, weight: 1}, {pluginRef: picker}]
`;

const aggregated = `
plugins:
- type: single-profile-handler
- {name: picker, type: max-score-picker}
- {name: dyn-kv, type: kv-aware-scorer, parameters: {frontendURL: "http://127.0.0.1:8000", timeoutMS: 10000}}
schedulingProfiles:
- name: default
  plugins: [{pluginRef: dyn-kv, weight: 1}, {pluginRef: picker}]
`;

describe("a configuration of Dynamo's picker in Go", () => {
  it("routes prefill and decode by the router, with its filters", async () => {
    const config = await load(disaggregated);
    const typeOf = (name: string) => config.plugins.find((plugin) => plugin.name === name)?.type;
    expect(typeOf(config.profileHandler)).toBe("dynamo-prefill-router");
    expect(typeOf("decode-filter")).toBe("by-label");
    expect(config.discovery).toBe("dynamo-discovery");
    expect(config.sources).toEqual([]);
    expect(config.profiles.map(({ name }) => name)).toEqual(["prefill", "decode"]);
    const warned = config.warnings.join("\n");
    expect(warned).toMatch(/plugins\[0\]\.type: disagg-profile-handler is taken for dynamo-prefill-router/);
    expect(warned).toMatch(/plugins\[5\]\.type: dyn-decode-scorer has no vote any more/);
    expect(warned).toMatch(/plugins\[1\]\.type: label-filter is deprecated/);
  });

  it.each([
    ["a handler of one profile", aggregated],
    ["no handler", aggregated.replace("- type: single-profile-handler\n", "")],
    ["the scorer's type as its name", aggregated.replace("kv-aware-scorer", "dyn-kv")],
  ])("of the older single scorer, with %s, routes by the router", async (_name, text) => {
    const config = await load(text);
    expect(config.plugins.find(({ name }) => name === config.profileHandler)?.type).toBe("dynamo-prefill-router");
    expect(config.warnings.join("\n")).toMatch(/frontendURL, timeoutMS have no effect/);
  });

  it("keeps a discovery of its own", async () => {
    const config = await load(`
plugins:
- {name: mine, type: dynamo-discovery, parameters: {frontend: "127.0.0.1:8000"}}
- {name: router, type: disagg-profile-handler}
- type: dyn-decode-scorer
dataLayer: {discovery: {pluginRef: mine}, injectDefaults: false}
schedulingProfiles: [{name: decode, plugins: [{pluginRef: dyn-decode-scorer}]}]
`);
    expect(config.profileHandler).toBe("router");
    expect(config.plugins.find(({ name }) => name === "router")?.parameters).toMatchObject({ discovery: "mine" });
    expect(config.discovery).toBe("mine");
  });

  it("does not change what disagg-profile-handler means without Dynamo's scorers", async () => {
    await expect(load("plugins: [{type: disagg-profile-handler}]")).rejects.toMatchObject({
      faults: [
        expect.stringMatching(/disagg-profile-handler is a plugin of the reference picker that is not built yet/),
      ],
    });
  });

  it("leaves other configurations as they are", async () => {
    const { warnings, profileHandler } = await load("plugins: [{type: queue-scorer}]");
    expect(profileHandler).toBe("single-profile-handler");
    expect(warnings.join("\n")).not.toMatch(/dynamo/);
  });
});
