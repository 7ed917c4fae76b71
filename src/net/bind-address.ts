/** The address that "every address" means on this machine: "::" serves IPv4 too, but a kernel without IPv6 refuses it. */
import { createServer } from "node:net";

/** `wanted` itself unless it is "": then "::", or "0.0.0.0" where there is no IPv6. */
export async function resolveBindAddress(wanted: string): Promise<string> {
  if (wanted !== "") return wanted;
  return await new Promise((resolve, reject) => {
    const probe = createServer();
    probe.once("error", (error: NodeJS.ErrnoException) => {
      if (error.code === "EAFNOSUPPORT" || error.code === "EADDRNOTAVAIL") resolve("0.0.0.0");
      else reject(error);
    });
    probe.listen({ port: 0, host: "::" }, () => probe.close(() => resolve("::")));
  });
}
