/** Keeps the endpoints that serve the decode stage; one without a role serves every stage. */
import { roleFilter } from "./role.ts";

export const decodeFilter = roleFilter(
  "decode-filter",
  "Keeps the endpoints whose label llm-d.ai/role includes decode, and those without the label.",
  ["decode", "prefill-decode", "both", "encode-prefill-decode"],
  true,
);
