/** Workers of one model that are told apart from others of it. Dynamo's routers and pickers know one group; callers of its select service may name more. */
export const defaultRoutingGroup = "default";
