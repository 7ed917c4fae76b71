/** Follows a folder with tls.crt and tls.key: each new valid pair is handed over; a pair that is not valid yet changes nothing and is told of once. */
import { join } from "node:path";
import { statKeys, watchFiles } from "../data/watch/file-watch.ts";
import type { WatchTiming } from "../data/watch/settled-watch.ts";
import type { TlsMaterial } from "../net/grpc/transport.ts";
import { loadCertificates, type TlsLimits } from "../net/tls.ts";

export interface CertificateWatchOptions extends TlsLimits {
  /** What is in use now. */
  readonly current: TlsMaterial;
  readonly timing?: WatchTiming;
}

export interface CertificateWatch {
  close(): Promise<void>;
}

export async function watchCertificates(
  folder: string,
  onChange: (material: TlsMaterial) => void,
  onError: (error: unknown) => void,
  options: CertificateWatchOptions,
): Promise<CertificateWatch> {
  const { timing, current, ...limits } = options;
  let inUse = current;
  let lastFault: string | undefined;
  const look = async (): Promise<void> => {
    try {
      const material = await loadCertificates(folder, limits);
      lastFault = undefined;
      if (material.cert === inUse.cert && material.key === inUse.key) return;
      inUse = material;
      onChange(material);
    } catch (error) {
      const fault = String((error as { message?: unknown }).message);
      if (fault === lastFault) return;
      lastFault = fault;
      onError(error);
    }
  };
  const paths = [join(folder, "tls.crt"), join(folder, "tls.key")] as const;
  const watch = watchFiles(paths, await statKeys(paths), look, timing);
  // What changed between the caller's load and the first state above is seen by this look.
  await look();
  return watch;
}
