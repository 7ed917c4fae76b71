/**
 * Writes the weightless model directory that Dynamo's workers serve in tests: `node test/dynamo/model/generate.ts`. The result is checked in
 * (test/fixtures/dynamo/model), because the text it is trained on, this project's documentation, changes.
 */
import { globSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { trainBytePairs } from "./byte-pairs.ts";

const root = dirname(dirname(dirname(import.meta.dirname)));
const out = join(root, "test/fixtures/dynamo/model");
const specialTokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
const vocabularySize = 4_000;
/** Split by Qwen2's pattern, then bytes to characters: what most served models do. */
const pattern =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const chatTemplate = `{%- if tools %}<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content }}

{% endif %}# Tools
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% elif messages[0].role != 'system' %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}{%- for message in messages %}{%- if message.role == 'tool' %}<|im_start|>user
<tool_response>
{{ message.content }}
</tool_response><|im_end|>
{% elif not (loop.first and tools and message.role == 'system') %}<|im_start|>{{ message.role }}
{% if message.content %}{{ message.content }}{% endif %}{% for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}`;

const texts = globSync(["README.md", "CONTRIBUTING.md", "docs/*.md"], { cwd: root }).sort();
const text = texts.map((file) => readFileSync(join(root, file), "utf8")).join("\n");
const { tokens, merges } = trainBytePairs(text, vocabularySize - specialTokens.length);

const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false };
const tokenizer = {
  version: "1.0",
  truncation: null,
  padding: null,
  added_tokens: specialTokens.map((content, index) => ({
    id: tokens.length + index,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  })),
  normalizer: { type: "NFC" },
  pre_tokenizer: {
    type: "Sequence",
    pretokenizers: [{ type: "Split", pattern: { Regex: pattern }, behavior: "Isolated", invert: false }, byteLevel],
  },
  post_processor: byteLevel,
  decoder: byteLevel,
  model: {
    type: "BPE",
    dropout: null,
    unk_token: null,
    continuing_subword_prefix: "",
    end_of_word_suffix: "",
    fuse_unk: false,
    byte_fallback: false,
    ignore_merges: false,
    vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
    merges: merges.map((pair) => pair.join(" ")),
  },
};
const [endOfText = 0, , endOfTurn = 0] = specialTokens.map((_, index) => tokens.length + index);
const contextLength = 262_144;

mkdirSync(out, { recursive: true });
const write = (name: string, content: string): void => writeFileSync(join(out, name), content);
write("tokenizer.json", `${JSON.stringify(tokenizer)}\n`);
write(
  "config.json",
  `${JSON.stringify(
    {
      architectures: ["Qwen2ForCausalLM"],
      model_type: "qwen2",
      hidden_size: 256,
      intermediate_size: 512,
      num_hidden_layers: 4,
      num_attention_heads: 4,
      num_key_value_heads: 2,
      head_dim: 64,
      vocab_size: tokens.length + specialTokens.length,
      max_position_embeddings: contextLength,
      bos_token_id: endOfText,
      eos_token_id: endOfTurn,
      torch_dtype: "bfloat16",
      rms_norm_eps: 1e-6,
      rope_theta: 10_000,
      tie_word_embeddings: true,
    },
    null,
    1,
  )}\n`,
);
write(
  "generation_config.json",
  `${JSON.stringify({ bos_token_id: endOfText, eos_token_id: [endOfTurn, endOfText] }, null, 1)}\n`,
);
write(
  "tokenizer_config.json",
  `${JSON.stringify(
    {
      tokenizer_class: "Qwen2Tokenizer",
      bos_token: null,
      eos_token: "<|im_end|>",
      pad_token: "<|endoftext|>",
      model_max_length: contextLength,
      add_bos_token: false,
      clean_up_tokenization_spaces: false,
      chat_template: chatTemplate,
    },
    null,
    1,
  )}\n`,
);
process.stdout.write(`${out}: ${tokens.length + specialTokens.length} tokens from ${texts.length} files\n`);
