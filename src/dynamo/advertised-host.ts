/**
 * The address that this process tells its peers: an IP literal, the name of a network interface, a host name, or (when nothing is configured)
 * the machine's first address that is not loopback, as Dynamo's own processes choose it.
 */
import { lookup } from "node:dns/promises";
import { isIP } from "node:net";
import { networkInterfaces } from "node:os";

export interface AdvertisedHost {
  readonly address: string;
  readonly family: 4 | 6;
}

/** Rejects with an error that names `variable` when the configured host is no address of any kind, or a wildcard. */
export async function resolveAdvertisedHost(configured: string | undefined, variable: string): Promise<AdvertisedHost> {
  const host = configured?.trim() ?? "";
  if (host === "") return preferred(Object.values(networkInterfaces()).flatMap((addresses) => addresses ?? []));
  const literal = host.startsWith("[") && host.endsWith("]") ? host.slice(1, -1) : host;
  if (isIP(literal) !== 0) return checked(literal, isIP(literal) === 6 ? 6 : 4, variable);
  const addresses = networkInterfaces()[host];
  if (addresses !== undefined && addresses.length > 0) return preferred(addresses);
  try {
    const found = await lookup(host);
    return checked(found.address, found.family === 6 ? 6 : 4, variable);
  } catch (error) {
    throw new Error(`${variable}=${host} is neither an IP address, a network interface nor a host that resolves`, {
      cause: error,
    });
  }
}

/** "tcp://" and others put brackets around IPv6. */
export function hostAndPort({ address, family }: AdvertisedHost, port: number): string {
  return family === 6 ? `[${address}]:${port}` : `${address}:${port}`;
}

interface InterfaceAddress {
  readonly address: string;
  readonly family: string;
  readonly internal: boolean;
}

function preferred(addresses: readonly InterfaceAddress[]): AdvertisedHost {
  const usable = addresses.filter(({ address }) => !address.toLowerCase().startsWith("fe80:"));
  const outside = usable.filter(({ internal }) => !internal);
  const candidates = outside.length > 0 ? outside : usable;
  const best = candidates.find(({ family }) => family === "IPv4") ?? candidates[0];
  if (best === undefined) return { address: "127.0.0.1", family: 4 };
  return { address: best.address, family: best.family === "IPv6" ? 6 : 4 };
}

function checked(address: string, family: 4 | 6, variable: string): AdvertisedHost {
  if (address === "0.0.0.0" || address === "::")
    throw new Error(`${variable}=${address} cannot be told to others: it is every address`);
  return { address, family };
}
