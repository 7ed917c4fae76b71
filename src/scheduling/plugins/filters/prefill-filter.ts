/** Keeps the endpoints that are labelled for the prefill stage. */
import { roleFilter } from "./role.ts";

export const prefillFilter = roleFilter(
  "prefill-filter",
  "Keeps the endpoints whose label llm-d.ai/role includes prefill.",
  ["prefill", "encode-prefill", "prefill-decode", "both", "encode-prefill-decode"],
  false,
);
