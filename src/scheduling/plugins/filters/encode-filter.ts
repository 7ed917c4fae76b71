/** Keeps the endpoints that are labelled for the encode stage. */
import { roleFilter } from "./role.ts";

export const encodeFilter = roleFilter(
  "encode-filter",
  "Keeps the endpoints whose label llm-d.ai/role includes encode.",
  ["encode", "encode-prefill", "encode-prefill-decode"],
  false,
);
