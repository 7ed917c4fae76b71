/** JSON Schema validation with faults an operator can act on: the path in the file, what is wrong, what was expected; all at once. */
import { Ajv, type ErrorObject, type ValidateFunction } from "ajv";
import { type JsonSchema, parseBytes, parseDuration } from "../scheduling/contracts.ts";
import { didYouMean } from "./nearest-name.ts";

const ajv = new Ajv({
  allErrors: true,
  useDefaults: true,
  strict: false,
  verbose: true,
  allowUnionTypes: true,
  // A user's module is loaded again after an edit; a schema with an `$id` must not clash with its older self.
  addUsedSchema: false,
  logger: false,
});
ajv.addFormat("duration", { type: "string", validate: (text) => (parseDuration(text) ?? -1) >= 0 });
ajv.addFormat("quantity", { type: "string", validate: (text) => parseBytes(text) !== undefined });

const compiled = new WeakMap<JsonSchema, ValidateFunction>();

function compile(schema: JsonSchema): ValidateFunction {
  let validate = compiled.get(schema);
  if (validate === undefined) {
    validate = ajv.compile(schema);
    compiled.set(schema, validate);
  }
  return validate;
}

/** "/plugins/0/type" below "config" → "plugins[0].type". */
function pathOf(base: string, pointer: string, last?: string): string {
  let path = base;
  const steps = pointer.split("/").slice(1);
  if (last !== undefined) steps.push(last);
  for (const step of steps) {
    const name = step.replaceAll("~1", "/").replaceAll("~0", "~");
    if (/^\d+$/.test(name)) path += `[${name}]`;
    else if (/^[\w$-]+$/.test(name)) path += path === "" ? name : `.${name}`;
    else path += `[${JSON.stringify(name)}]`;
  }
  return path === "" ? "the document" : path;
}

function shown(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

function faultOf(base: string, error: ErrorObject): string {
  const parameters: Readonly<Record<string, unknown>> = error.params;
  const parent: unknown = error.parentSchema;
  const known =
    typeof parent === "object" && parent !== null && "properties" in parent
      ? Object.keys(parent.properties as Readonly<Record<string, unknown>>)
      : [];
  switch (error.keyword) {
    case "additionalProperties": {
      const key = String(parameters["additionalProperty"]);
      const expected = known.length === 0 ? "no keys here" : `one of ${known.join(", ")}`;
      return `${pathOf(base, error.instancePath, key)}: unknown key${didYouMean(key, known)}; expected ${expected}`;
    }
    case "required":
      return `${pathOf(base, error.instancePath, String(parameters["missingProperty"]))}: missing`;
    case "enum":
      return `${pathOf(base, error.instancePath)}: ${shown(error.data)} is not one of ${(parameters["allowedValues"] as unknown[]).map(shown).join(", ")}`;
    case "const":
      return `${pathOf(base, error.instancePath)}: ${shown(error.data)} should be ${shown(parameters["allowedValue"])}`;
    case "type":
      return `${pathOf(base, error.instancePath)}: ${shown(error.data)} should be of type ${String(parameters["type"])}`;
    case "format":
      return parameters["format"] === "duration"
        ? `${pathOf(base, error.instancePath)}: ${shown(error.data)} is no duration; expected e.g. "200ms", "30s", "1m30s"`
        : `${pathOf(base, error.instancePath)}: ${shown(error.data)} is no ${String(parameters["format"])}; expected e.g. 1048576 or "64Mi"`;
    default:
      return `${pathOf(base, error.instancePath)}: ${shown(error.data)} ${error.message ?? "is invalid"}`;
  }
}

/** Why a schema cannot be used; undefined when it can. For those of a user's own plugins. */
export function schemaFault(schema: JsonSchema): string | undefined {
  try {
    compile(schema);
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/** Checks value in place, filling in the schema's defaults. Returns the faults; [] when there are none. Throws for a schema that is none. */
export function validateAgainst(schema: JsonSchema, value: unknown, basePath: string): readonly string[] {
  const validate = compile(schema);
  if (validate(value)) return [];
  const errors = validate.errors ?? [];
  const inUnion = new Set(errors.filter((error) => error.keyword === "anyOf").map((error) => error.instancePath));
  const faults = errors
    .filter((error) => error.keyword === "anyOf" || !inUnion.has(error.instancePath))
    .map((error) =>
      error.keyword === "anyOf"
        ? `${pathOf(basePath, error.instancePath)}: ${shown(error.data)} is none of the forms allowed here`
        : faultOf(basePath, error),
    );
  return [...new Set(faults)];
}
