/** What is spoken to the engines of a pool, as its appProtocol names it. */
export type AppProtocol = "http" | "kubernetes.io/h2c";

/** JSON over either: HTTP/2 carries the same bodies. */
export const jsonProtocols: readonly AppProtocol[] = ["http", "kubernetes.io/h2c"];
