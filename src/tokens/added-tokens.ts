/**
 * Added and special tokens: found in the text before anything else, leftmost first and the longest of those, as the native tokenizer's
 * automaton does (tokenizers 0.21.4, added_vocabulary.rs). Tokens written "normalized" are looked for a second time, in normalized text.
 */

export interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly isSpecial: boolean;
  readonly isNormalized: boolean;
  /** Takes the white space before it. */
  readonly stripsLeft: boolean;
  /** Takes the white space after it. */
  readonly stripsRight: boolean;
  readonly isSingleWord: boolean;
}

interface TrieNode {
  readonly children: Map<number, TrieNode>;
  token: AddedToken | undefined;
}

/** Where one token was found; `start` and `end` include the white space it takes. */
export interface Found {
  readonly token: AddedToken;
  readonly start: number;
  readonly end: number;
}

export class AddedTokenFinder {
  readonly #root: TrieNode = { children: new Map(), token: undefined };
  /** First characters; most vocabularies have one or two. */
  readonly #firsts: number[] = [];
  readonly #single: string | undefined;

  constructor(tokens: readonly AddedToken[]) {
    for (const token of tokens) this.#insert(token);
    for (const first of this.#root.children.keys()) this.#firsts.push(first);
    const [only] = this.#firsts;
    this.#single = this.#firsts.length === 1 && only !== undefined ? String.fromCharCode(only) : undefined;
  }

  #insert(token: AddedToken): void {
    let node = this.#root;
    for (let at = 0; at < token.content.length; at++) {
      const unit = token.content.charCodeAt(at);
      let child = node.children.get(unit);
      if (child === undefined) {
        child = { children: new Map(), token: undefined };
        node.children.set(unit, child);
      }
      node = child;
    }
    node.token ??= token;
  }

  /** The next token whose own text begins at or after `from`; what lies before `taken` is not taken again as white space. */
  next(text: string, from: number, taken: number): Found | undefined {
    for (let at = this.#candidate(text, from); at >= 0; at = this.#candidate(text, at + 1)) {
      const token = this.#longestAt(text, at);
      if (token === undefined) continue;
      const end = at + token.content.length;
      return {
        token,
        start: token.stripsLeft ? Math.max(spaceBefore(text, at), taken) : at,
        end: token.stripsRight ? spaceAfter(text, end) : end,
      };
    }
    return undefined;
  }

  #candidate(text: string, from: number): number {
    if (this.#single !== undefined) return text.indexOf(this.#single, from);
    if (this.#firsts.length === 0) return -1;
    for (let at = from; at < text.length; at++) {
      if (this.#root.children.has(text.charCodeAt(at))) return at;
    }
    return -1;
  }

  #longestAt(text: string, from: number): AddedToken | undefined {
    let node: TrieNode | undefined = this.#root;
    let longest: AddedToken | undefined;
    for (let at = from; at < text.length; at++) {
      node = node.children.get(text.charCodeAt(at));
      if (node === undefined) break;
      if (node.token !== undefined) longest = node.token;
    }
    return longest;
  }
}

const whiteSpace = /\p{White_Space}/u;

function spaceBefore(text: string, from: number): number {
  let at = from;
  while (at > 0 && whiteSpace.test(text.charAt(at - 1))) at--;
  return at;
}

function spaceAfter(text: string, from: number): number {
  let at = from;
  while (at < text.length && whiteSpace.test(text.charAt(at))) at++;
  return at;
}
