/** An index that writes down what it is told: the literal of the contract for tests of what feeds it. */
import type { KvIndex, StoreOutcome } from "../../../../src/data/prefix-index/kv-index.ts";

export interface Told {
  readonly tier?: string;
  readonly parent?: string | null;
  readonly stored?: readonly (readonly [engineHash: string, tokensHash: string])[];
  readonly removed?: readonly string[];
  readonly cleared?: true;
  readonly holder: number;
}

export interface RecordingIndex extends KvIndex {
  readonly told: Told[];
  readonly attached: Set<number>;
  /** What `stored` answers from now on. */
  outcome: StoreOutcome;
}

const tierNames = ["device", "host_pinned", "disk", "external"];

export function u64(low: number, high: number): string {
  return String((BigInt(high) << 32n) | BigInt(low));
}

function pairAt(hashes: Uint32Array, block: number): string {
  return u64(hashes[2 * block] ?? 0, hashes[2 * block + 1] ?? 0);
}

export function createRecordingIndex(): RecordingIndex {
  const told: Told[] = [];
  const attached = new Set<number>();
  let next = 0;
  return {
    told,
    attached,
    outcome: "applied",
    attach() {
      attached.add(next);
      return next++;
    },
    detach: (holder) => {
      attached.delete(holder);
    },
    stored(holder, tier, parentLow, parentHigh, hasParent, engineHashes, tokensHashes, first, count) {
      if (this.outcome === "applied") {
        told.push({
          tier: tierNames[tier] ?? "",
          parent: hasParent ? u64(parentLow, parentHigh) : null,
          stored: Array.from({ length: count }, (_, i) => [
            pairAt(engineHashes, first + i),
            pairAt(tokensHashes, first + i),
          ]),
          holder,
        });
      }
      return this.outcome;
    },
    removed(holder, tier, engineHashes, first, count) {
      const removed = Array.from({ length: count }, (_, i) => pairAt(engineHashes, first + i));
      told.push({ tier: tierNames[tier] ?? "", removed, holder });
    },
    cleared: (holder) => {
      told.push({ cleared: true, holder });
    },
    match: () => {},
    createMatches: () => ({ device: new Int32Array(next), host: new Int32Array(next), disk: new Int32Array(next) }),
    get holderCount() {
      return next;
    },
    blocksOf: () => 0,
    upkeep: () => false,
    refusals: { unknownParent: 0, invalid: 0, full: 0 },
    blocks: 0,
    heldBlocks: 0,
    sizeBytes: 0,
  };
}
