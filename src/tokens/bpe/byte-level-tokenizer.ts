/**
 * Byte-level BPE: special tokens are cut out of the text, the stretches between are cut into words, and each word's bytes are merged. Ids equal
 * those of the native tokenizer for the models that `readTokenizer` lets through.
 */
import { type AddedToken, AddedTokenFinder } from "../added-tokens.ts";
import { IdBuffer } from "../id-buffer.ts";
import { SegmentCache } from "../segment-cache.ts";
import type { BpeTables } from "./bpe-tables.ts";
import { hasNewCharacters } from "./character-classes.ts";
import { maxCachedUnits, WordCache } from "./word-cache.ts";
import { scannerOf, type WordCut } from "./word-cuts.ts";
import { maxWordBytes, WordMerger } from "./word-merger.ts";
import type { WordScanner } from "./word-scanner.ts";

export type NormalForm = "NFC" | "NFD" | "NFKC" | "NFKD";

/** Everything of tokenizer.json that encoding needs: plain data and shared tables, as it travels between threads. */
export interface ByteLevelModel {
  readonly tables: BpeTables;
  readonly addedTokens: readonly AddedToken[];
  readonly cuts: readonly WordCut[];
  readonly addsPrefixSpace: boolean;
  readonly normalForms: readonly NormalForm[];
  /** What the post-processor puts around a text when special tokens are asked for. */
  readonly leadingIds: readonly number[];
  readonly trailingIds: readonly number[];
  /** Every id is below it. */
  readonly idLimit: number;
}

/** Text whose ids this tokenizer cannot vouch for, or that is beyond its bounds; the native one is to be asked. */
export class UnsureText extends Error {
  readonly code = "unsure_text";
}

/** The budget of letters to merge is used up. */
export class TooMuchWork extends Error {
  readonly code = "too_much_work";
}

/** A text cut at its special tokens: ids, and stretches of text with their ids where they are known already. */
export interface CutText {
  readonly parts: readonly (number | string)[];
  readonly known: readonly (Uint32Array | undefined)[];
  /** Characters that are still to be encoded. */
  readonly unknownUnits: number;
}

export interface ByteLevelOptions {
  /** Of the ids of stretches of text; 0 keeps none. */
  readonly segmentCacheBytes: number;
}

/** Scratch kept between texts. */
const keptUnits = 64 * 1024;

export class ByteLevelTokenizer {
  readonly model: ByteLevelModel;
  readonly #raw: AddedTokenFinder;
  readonly #normalized: AddedTokenFinder | undefined;
  readonly #scan: WordScanner | undefined;
  readonly #expressions: readonly { readonly expression: RegExp; readonly keepsGaps: boolean }[];
  readonly #merger: WordMerger;
  readonly #words = new WordCache();
  readonly #segments: SegmentCache;
  readonly #ids = new IdBuffer();
  #mergeableUnits = Number.POSITIVE_INFINITY;
  /** The stretch being encoded, in UTF-16. */
  #units = new Uint16Array(keptUnits);

  constructor(model: ByteLevelModel, options: ByteLevelOptions) {
    this.model = model;
    this.#raw = new AddedTokenFinder(model.addedTokens.filter((token) => !token.isNormalized));
    const normalized = model.addedTokens.filter((token) => token.isNormalized);
    this.#normalized =
      normalized.length === 0
        ? undefined
        : new AddedTokenFinder(
            normalized.map((token) => ({ ...token, content: inForms(token.content, model.normalForms) })),
          );
    const last = model.cuts.at(-1);
    this.#scan = last === undefined ? undefined : scannerOf(last);
    this.#expressions = model.cuts
      .slice(0, this.#scan === undefined ? model.cuts.length : -1)
      .map((cut) => ({ expression: expressionOf(cut), keepsGaps: cut.kind !== "expression" || cut.keepsGaps }));
    this.#merger = new WordMerger(model.tables);
    this.#segments = new SegmentCache(options.segmentCacheBytes);
  }

  cut(unchecked: string): CutText {
    const text = unchecked.toWellFormed();
    const parts: (number | string)[] = [];
    const known: (Uint32Array | undefined)[] = [];
    let unknownUnits = 0;
    const addText = (start: number, end: number): void => {
      if (start >= end) return;
      const segment = text.slice(start, end);
      const ids = this.#segments.get(segment);
      if (ids === undefined) unknownUnits += segment.length;
      parts.push(segment);
      known.push(ids);
    };
    let taken = 0;
    for (let found = this.#raw.next(text, 0, 0); found !== undefined; found = this.#raw.next(text, taken, taken)) {
      addText(taken, found.start);
      parts.push(found.token.id);
      known.push(undefined);
      taken = found.end;
    }
    addText(taken, text.length);
    return { parts, known, unknownUnits };
  }

  /** Throws UnsureText, or TooMuchWork when words of more than `maxMergedUnits` characters are not in the cache. */
  encodeCut(cut: CutText, withSpecialTokens = false, maxMergedUnits = Number.POSITIVE_INFINITY): Uint32Array {
    const ids = this.#ids;
    this.#mergeableUnits = maxMergedUnits;
    ids.clear();
    if (withSpecialTokens) for (const id of this.model.leadingIds) ids.push(id);
    for (let index = 0; index < cut.parts.length; index++) {
      const part = cut.parts[index];
      const known = cut.known[index];
      if (typeof part === "number") {
        ids.push(part);
      } else if (known !== undefined) {
        ids.pushAll(known);
      } else if (part !== undefined) {
        const start = ids.length;
        this.#encodeSegment(part);
        this.#segments.set(part, ids.viewFrom(start));
      }
    }
    if (withSpecialTokens) for (const id of this.model.trailingIds) ids.push(id);
    return ids.copyFrom(0);
  }

  /** Throws UnsureText. */
  encode(text: string, withSpecialTokens = false): Uint32Array {
    return this.encodeCut(this.cut(text), withSpecialTokens);
  }

  decode(ids: Uint32Array): string {
    const { tokenBytes, tokenOffsets } = this.model.tables;
    const pieces: Uint8Array[] = [];
    for (const id of ids) {
      const added = this.model.addedTokens.find((token) => token.id === id);
      if (added !== undefined) pieces.push(Buffer.from(added.content, "utf8"));
      else pieces.push(tokenBytes.slice(tokenOffsets[id] ?? 0, tokenOffsets[id + 1] ?? 0));
    }
    return Buffer.concat(pieces).toString("utf8");
  }

  #encodeSegment(segment: string): void {
    const text = this.#normalize(segment);
    if (this.#expressions.length > 0 && hasNewCharacters(text))
      throw new UnsureText("characters newer than the reference's");
    const finder = this.#normalized;
    if (finder === undefined) {
      this.#encodeStretch(text);
      return;
    }
    let taken = 0;
    for (let found = finder.next(text, 0, 0); found !== undefined; found = finder.next(text, taken, taken)) {
      if (found.start > taken) this.#encodeStretch(text.slice(taken, found.start));
      this.#ids.push(found.token.id);
      taken = found.end;
    }
    if (taken < text.length) this.#encodeStretch(text.slice(taken));
  }

  #normalize(segment: string): string {
    if (this.model.normalForms.length === 0) return segment;
    const text = inForms(segment, this.model.normalForms);
    if (text !== segment && mayNormalizeOtherwise.test(segment))
      throw new UnsureText("characters newer than the reference's");
    return text;
  }

  #encodeStretch(stretch: string): void {
    const text = this.model.addsPrefixSpace && stretch.charCodeAt(0) !== 0x20 ? ` ${stretch}` : stretch;
    if (this.#units.length < text.length) this.#units = new Uint16Array(text.length * 2);
    Buffer.from(this.#units.buffer).write(text, "utf16le");
    if (this.#expressions.length === 0) this.#encodeWords(0, text.length);
    else this.#splitFrom(0, text, 0);
    if (this.#units.length > keptUnits) this.#units = new Uint16Array(keptUnits);
  }

  /** Each expression cuts the pieces that the one before it has made. `piece` is at `base` of the units. */
  #splitFrom(stage: number, piece: string, base: number): void {
    const step = this.#expressions[stage];
    if (step === undefined) {
      this.#encodeWords(base, base + piece.length);
      return;
    }
    const { expression, keepsGaps } = step;
    const next = stage + 1;
    let taken = 0;
    expression.lastIndex = 0;
    for (let match = execute(expression, piece); match !== null; match = execute(expression, piece)) {
      const resume = expression.lastIndex;
      if (keepsGaps && match.index > taken) this.#splitFrom(next, piece.slice(taken, match.index), base + taken);
      this.#splitFrom(next, match[0], base + match.index);
      taken = resume;
    }
    if (keepsGaps && taken < piece.length) this.#splitFrom(next, piece.slice(taken), base + taken);
  }

  #encodeWords(start: number, end: number): void {
    const scan = this.#scan;
    if (scan === undefined) {
      this.#encodeWord(start, end);
      return;
    }
    for (let at = start; at < end; ) {
      const wordEnd = scan(this.#units, at, end);
      this.#encodeWord(at, wordEnd);
      at = wordEnd;
    }
  }

  #encodeWord(start: number, end: number): void {
    const units = this.#units;
    if (end - start > maxCachedUnits) {
      if (end - start > maxWordBytes / 3) throw new UnsureText("a word of many megabytes");
      this.#append(this.#merge(start, end));
      return;
    }
    if (this.#words.find(units, start, end, this.#ids)) return;
    const ids = this.#merge(start, end);
    this.#words.add(units, start, end, ids);
    this.#append(ids);
  }

  #merge(start: number, end: number): Int32Array {
    this.#mergeableUnits -= end - start;
    if (this.#mergeableUnits < 0) throw new TooMuchWork("more new words than there is time for");
    return this.#merger.merge(this.#units, start, end);
  }

  #append(ids: Int32Array): void {
    for (let at = 0; at < ids.length; at++) this.#ids.push(ids[at] ?? 0);
  }
}

/** Marks and scripts whose composition the reference's older tables may not know. */
const mayNormalizeOtherwise = /[\u0898-\u08ff]|\u0c3c|[\u1ab0-\u1aff]|[\u1dc0-\u1dff]|[\u{10000}-\u{10ffff}]/u;

function inForms(text: string, forms: readonly NormalForm[]): string {
  let result = text;
  for (const form of forms) result = result.normalize(form);
  return result;
}

function expressionOf(cut: WordCut): RegExp {
  if (cut.kind !== "expression") throw new UnsureText("a scanner is the last step");
  return new RegExp(cut.source, "gu");
}

/** The engine's stack is bounded: what exceeds it is not this tokenizer's. */
function execute(expression: RegExp, text: string): RegExpExecArray | null {
  try {
    return expression.exec(text);
  } catch (error) {
    throw new UnsureText("a stretch too long for the expression", { cause: error });
  }
}
