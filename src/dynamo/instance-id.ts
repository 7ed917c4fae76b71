/**
 * The instance id of a worker in Kubernetes: SipHash-1-3 of its name under the zero key, cut to the 53 bits a double holds (Dynamo 1.6.1:
 * dynamo-runtime, src/discovery/kube/utils.rs; the hash is that of Rust's DefaultHasher over a str, which appends 0xFF).
 */

const mask64 = 0xffff_ffff_ffff_ffffn;
const mask53 = 0x1f_ffff_ffff_ffffn;

/** `name` is the pod's, or "<pod>-<container>" for a container that is not "main". */
export function instanceIdOfPod(name: string): bigint {
  return sipHash13(Buffer.concat([Buffer.from(name, "utf8"), Buffer.of(0xff)])) & mask53;
}

class SipState {
  v0 = 0x736f_6d65_7073_6575n;
  v1 = 0x646f_7261_6e64_6f6dn;
  v2 = 0x6c79_6765_6e65_7261n;
  v3 = 0x7465_6462_7974_6573n;

  absorb(word: bigint): void {
    this.v3 ^= word;
    this.round();
    this.v0 ^= word;
  }

  round(): void {
    this.v0 = (this.v0 + this.v1) & mask64;
    this.v1 = rotate(this.v1, 13n) ^ this.v0;
    this.v0 = rotate(this.v0, 32n);
    this.v2 = (this.v2 + this.v3) & mask64;
    this.v3 = rotate(this.v3, 16n) ^ this.v2;
    this.v0 = (this.v0 + this.v3) & mask64;
    this.v3 = rotate(this.v3, 21n) ^ this.v0;
    this.v2 = (this.v2 + this.v1) & mask64;
    this.v1 = rotate(this.v1, 17n) ^ this.v2;
    this.v2 = rotate(this.v2, 32n);
  }
}

function sipHash13(bytes: Buffer): bigint {
  const state = new SipState();
  const whole = bytes.length - (bytes.length % 8);
  for (let at = 0; at < whole; at += 8) state.absorb(bytes.readBigUInt64LE(at));
  let last = BigInt(bytes.length & 0xff) << 56n;
  for (let at = whole; at < bytes.length; at++) last |= BigInt(bytes[at] ?? 0) << BigInt(8 * (at - whole));
  state.absorb(last);
  state.v2 ^= 0xffn;
  state.round();
  state.round();
  state.round();
  return state.v0 ^ state.v1 ^ state.v2 ^ state.v3;
}

function rotate(value: bigint, bits: bigint): bigint {
  return ((value << bits) | (value >> (64n - bits))) & mask64;
}
