/**
 * Hosts that no model is fetched from, whoever names them: link-local addresses and those at which clouds hand credentials to whoever asks from
 * within. A name is judged by every address it has now.
 */
import { lookup } from "node:dns/promises";
import { BlockList, isIP } from "node:net";

const forbidden = new BlockList();
forbidden.addSubnet("169.254.0.0", 16, "ipv4");
forbidden.addSubnet("fe80::", 10, "ipv6");
forbidden.addAddress("fd00:ec2::254", "ipv6");
forbidden.addAddress("100.100.100.200", "ipv4");

/** Rejects when the name cannot be resolved. */
export async function isForbiddenHost(hostname: string): Promise<boolean> {
  const host = hostname.replace(/^\[|\]$/g, "");
  const addresses = isIP(host) === 0 ? (await lookup(host, { all: true })).map(({ address }) => address) : [host];
  return addresses.some((address) => forbidden.check(address, isIP(address) === 6 ? "ipv6" : "ipv4"));
}
