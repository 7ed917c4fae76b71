/** Records this process writes into discovery and keeps alive until it closes. */
import type { EncodedRecord } from "../encode-record.ts";

export interface DynamoRegistration {
  /** The instance id under which a process of this backend registers: the lease's, or a random u64. Stays for the registration's life. */
  readonly instanceId: bigint;
  /** Resolves when others can see it. A key that is there already is replaced. */
  put(record: EncodedRecord): Promise<void>;
  remove(key: string): Promise<void>;
  /** Removes what was put. */
  close(): Promise<void>;
}
