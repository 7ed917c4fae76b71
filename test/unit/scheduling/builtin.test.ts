import { describe, expect, it } from "@jest/globals";
import { Ajv } from "ajv";
import { builtinPlugins, deprecatedTypes, knownUnbuilt } from "../../../src/scheduling/builtin.ts";
import type { JsonSchema } from "../../../src/scheduling/contracts.ts";
import { context } from "./cycle-fixtures.ts";

/** Parameters of the plugins that cannot be created without any. */
const required: Readonly<Record<string, object>> = {
  "by-label": { label: "a", allowsNoLabel: true },
  "utilization-filter": { conditions: [{ metric: "waiting-queue", maxValue: 1 }] },
  "endpoint-attribute-filter": {
    attribute: "a",
    algorithm: { type: "threshold", threshold: { operator: "Equal", value: 1 } },
  },
  "endpoint-attribute-scorer": { attributeKey: "a", algorithm: { type: "linear_lower_is_better" } },
  "header-label-affinity-scorer": { headerName: "a", labelKey: "b" },
};

const methodsByKind: Readonly<Record<string, string>> = {
  filter: "filter",
  scorer: "score",
  picker: "pick",
  "profile-handler": "nextProfiles",
};

function validator(schema: JsonSchema) {
  return new Ajv({
    useDefaults: true,
    strict: true,
    strictTypes: false,
    keywords: ["x-producer", "x-plugin", "x-published-by"],
  }).compile(schema);
}

describe.each(builtinPlugins.map((definition) => [definition.type, definition] as const))("%s", (type, definition) => {
  it("has a closed schema, every property described", () => {
    const undescribed: string[] = [];
    const open: string[] = [];
    const visit = (path: string, schema: JsonSchema): void => {
      const properties = schema["properties"] as Readonly<Record<string, JsonSchema>> | undefined;
      if (schema["type"] === "object" && schema["additionalProperties"] === undefined) open.push(path);
      for (const [name, property] of Object.entries(properties ?? {})) {
        if (typeof property["description"] !== "string") undescribed.push(`${path}.${name}`);
        visit(`${path}.${name}`, property);
      }
      if (schema["items"] !== undefined) visit(`${path}[]`, schema["items"] as JsonSchema);
    };
    visit(type, definition.parameters);
    expect({ undescribed, open }).toEqual({ undescribed: [], open: [] });
  });

  it("can be created from its defaults and plays the roles of its kinds", () => {
    const parameters = structuredClone(required[type] ?? {});
    const validate = validator(definition.parameters);
    expect([validate(parameters), validate.errors]).toEqual([true, null]);
    expect(definition.validate?.(parameters) ?? []).toEqual([]);
    const plugin = definition.create(parameters, context) as Record<string, unknown>;
    for (const kind of definition.kinds) {
      const method = methodsByKind[kind];
      if (method !== undefined) expect([kind, typeof plugin[method]]).toEqual([kind, "function"]);
    }
  });

  it("refuses an unknown parameter", () => {
    expect(validator(definition.parameters)({ ...structuredClone(required[type] ?? {}), surprise: 1 })).toBe(false);
  });
});

describe("the list of plugins", () => {
  const types = builtinPlugins.map(({ type }) => type);

  it("names every type once", () => {
    expect(new Set(types).size).toBe(types.length);
  });

  it("holds no type that is said to be unbuilt", () => {
    expect(types.filter((type) => knownUnbuilt.has(type))).toEqual([]);
  });

  it("knows the replacement of every deprecated type", () => {
    expect([...deprecatedTypes.values()].map(({ use }) => use).filter((use) => !types.includes(use))).toEqual([]);
  });
});
