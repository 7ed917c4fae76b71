/** The endpoints at which Dynamo's routers serve their index to each other, registered on the workers' component (dynamo-kv-router 1.6.1, indexer/types.rs). */

/** What is cached where of a prompt. */
export const queryEndpoint = "kv_indexer_query";
/** Takes decisions, where no events feed the index: only an approximate index registers it, and one alone on a component. */
export const recordEndpoint = "kv_indexer_record_routing_decision";
