/**
 * Where a block hash lives in a table: 32 mixed bits of the 64-bit hash. The secrets differ from process to process, so a client who can
 * choose block hashes (XXH64 is no cryptographic hash) still cannot choose which of them collide.
 */

/** Two words to add and two odd multipliers. */
export interface AddressSecrets {
  readonly add0: number;
  readonly add1: number;
  readonly multiply0: number;
  readonly multiply1: number;
}

/** `random` is uniform in [0, 1). */
export function createAddressSecrets(random: () => number): AddressSecrets {
  const word = () => Math.floor(random() * 0x1_0000_0000) | 0;
  return { add0: word(), add1: word(), multiply0: word() | 1, multiply1: word() | 1 };
}

/** Signed 32 bits; tables take the high bits first, shards the low ones. */
export function addressOf(secrets: AddressSecrets, low: number, high: number): number {
  let mixed = Math.imul(low ^ secrets.add0, secrets.multiply0);
  mixed = Math.imul(mixed ^ (mixed >>> 16), secrets.multiply1);
  mixed = Math.imul(mixed ^ (mixed >>> 15) ^ high ^ secrets.add1, secrets.multiply0);
  mixed = Math.imul(mixed ^ (mixed >>> 15), 0x85ebca77);
  return mixed ^ (mixed >>> 16);
}
