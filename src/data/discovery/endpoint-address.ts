/** IP literals and ports as discoveries read them: only what can stand in a destination header passes. */
import { isIP } from "node:net";

/** An IPv4 or IPv6 literal without zone: a zone index has no place in the destination header. */
export function isAddress(text: string): boolean {
  return isIP(text) !== 0 && !text.includes("%");
}

/** 1..65535 in decimal digits only; undefined otherwise. */
export function parsePort(text: string): number | undefined {
  if (!/^[0-9]{1,5}$/.test(text)) return undefined;
  const port = Number(text);
  return port >= 1 && port <= 65_535 ? port : undefined;
}

/** "ip:port" or "[ipv6]:port"; a fault says what is wrong with it. */
export function parseHostPort(
  text: string,
): { readonly address: string; readonly port: number } | { readonly fault: string } {
  const colon = text.lastIndexOf(":");
  const host = colon < 0 ? text : text.slice(0, colon);
  const isBracketed = host.startsWith("[") && host.endsWith("]");
  if (!isBracketed && isIP(text) === 6) return { fault: `"${text}": an IPv6 address is written [address]:port` };
  if (colon < 0) return { fault: `"${text}": expected ip:port` };
  const address = isBracketed ? host.slice(1, -1) : host;
  if (isBracketed ? isIP(address) !== 6 || !isAddress(address) : isIP(address) !== 4) {
    return { fault: `"${text}": "${host}" is no ${isBracketed ? "IPv6" : "IPv4 or bracketed IPv6"} address` };
  }
  const port = parsePort(text.slice(colon + 1));
  if (port === undefined) return { fault: `"${text}": the port must be 1 to 65535` };
  return { address, port };
}
