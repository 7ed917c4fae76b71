/** The tools of a chat request as Dynamo hands them to a template: a description always, and an object schema in every parameters. */
import { isRecord, type JsonRecord } from "../json-record.ts";

/** Undefined when the request has none, or wants none called. */
export function readTools(body: JsonRecord): readonly unknown[] | undefined {
  const tools = body["tools"];
  if (!Array.isArray(tools) || body["tool_choice"] === "none") return undefined;
  return tools.map(readTool);
}

function readTool(tool: unknown): unknown {
  if (!isRecord(tool) || !isRecord(tool["function"])) return tool;
  const source = tool["function"];
  const described: Record<string, unknown> = { name: source["name"] };
  for (const field of ["description", "parameters", "strict"]) {
    if (source[field] !== undefined && source[field] !== null) described[field] = source[field];
  }
  described["description"] ??= "";
  if (isRecord(described["parameters"])) {
    const parameters: Record<string, unknown> = { ...described["parameters"] };
    if (!("type" in parameters)) parameters["type"] = "object";
    if (!("properties" in parameters)) parameters["properties"] = {};
    described["parameters"] = parameters;
  }
  return { type: tool["type"] ?? "function", function: described };
}
