/** A chat request of a given size: a system message, then turns of about 2,000 bytes of plain words. Deterministic. */

const words =
  "the of and to in is that for it as was with be by on not this have from or had an they which one you were all".split(
    " ",
  );

/** Knuth's linear congruential generator: enough to make text that is not periodic. */
function createWords(seed: number): () => string {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    const word = words[(state >>> 8) % words.length] ?? "";
    return state % 100 < 8 ? `${word}.\n` : `${word} `;
  };
}

/** `mark` stands at the beginning of the first message, where it changes every block of the prompt. */
export function chatBody(sizeBytes: number, model: string, mark: string): Buffer {
  const nextWord = createWords(7);
  const messages = [{ role: "system", content: `${mark} You are a helpful assistant.` }];
  const encode = (): string =>
    JSON.stringify({
      model,
      messages,
      stream: true,
      stream_options: { include_usage: true },
      max_tokens: 256,
      temperature: 0.7,
    });
  for (let size = encode().length; sizeBytes - size > 40; size = encode().length) {
    const room = Math.min(sizeBytes - size - 32, 2000);
    let text = "";
    while (text.length < room) text += nextWord();
    messages.push({ role: messages.length % 2 === 1 ? "user" : "assistant", content: text.slice(0, room) });
  }
  return Buffer.from(encode());
}
