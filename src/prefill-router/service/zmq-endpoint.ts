/** Whether ZeroMQ can connect to an endpoint, in Dynamo's words; undefined: it can. */
export function endpointFault(endpoint: string): string | undefined {
  const fault = (what: string): string => `invalid ZMQ endpoint \`${endpoint}\`: ${what}`;
  const slashes = endpoint.indexOf("://");
  if (slashes < 0) return fault("missing scheme");
  const [scheme, address] = [endpoint.slice(0, slashes), endpoint.slice(slashes + 3)];
  if (address === "") return fault("missing address");
  if (scheme === "ipc" || scheme === "inproc") return undefined;
  if (scheme !== "tcp") return fault(`unsupported scheme \`${scheme}\``);
  const colon = address.lastIndexOf(":");
  if (colon < 0) return fault("missing TCP port");
  const [host, port] = [address.slice(0, colon), address.slice(colon + 1)];
  if (host === "") return fault("missing TCP host");
  if (host.startsWith("[") && !host.endsWith("]")) return fault("missing closing `]`");
  if (!host.startsWith("[") && host.includes(":")) return fault("missing TCP port");
  if (port === "") return fault("invalid TCP port: cannot parse integer from empty string");
  if (!/^\+?\d+$/.test(port)) return fault("invalid TCP port: invalid digit found in string");
  if (Number(port) > 65_535) return fault("invalid TCP port: number too large to fit in target type");
  return undefined;
}
