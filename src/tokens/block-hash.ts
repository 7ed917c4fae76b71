/** Block hashes as Dynamo computes them (XXH3-64, seed 1337); the implementation fills this file. */

export interface BlockHashOptions {
  readonly blockSize: number;
  readonly loraName?: string | undefined;
  readonly cacheSalt?: string | undefined;
  /** Windows of blockSize + 1 tokens, stride blockSize. */
  readonly isEagle?: boolean;
}

export interface TokenHashes {
  /** u64 as u32 pairs, low word first; one pair a complete block. */
  readonly blockHashes: Uint32Array;
  readonly sequenceHashes: Uint32Array;
}
