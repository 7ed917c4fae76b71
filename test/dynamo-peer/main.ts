/** The process of one peer: registers, says its instance id to its parent, does what it is told, and takes its records out when it is ended or its parent is gone. */
import { startPeer } from "./peer.ts";
import type { PeerOrder, PeerWord, StoreOrder } from "./peer-process.ts";
import { createSite } from "./site.ts";

const order = JSON.parse(process.argv[2] ?? "{}") as PeerOrder;
const say = (word: PeerWord): void => {
  process.send?.(word);
};

const site = createSite(order.site);
try {
  const peer = await startPeer(site, order.peer);
  process.on("message", ({ store }: StoreOrder) => {
    peer.cache.store(store);
    say({ stored: peer.cache.size });
  });
  const end = async (): Promise<void> => {
    await peer.close();
    await site.close();
    process.exit(0);
  };
  process.once("SIGTERM", () => void end());
  process.once("disconnect", () => void end());
  say({ instanceId: peer.instanceId.toString() });
} catch (error) {
  say({ failure: String(error) });
  process.exit(1);
}
