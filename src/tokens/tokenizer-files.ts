/** The files of a model as they are read and described; what is described is plain data, and travels between threads. */
import { readFileSync } from "node:fs";
import { type ChatTemplateSpec, hasOwnFormatter, readTemplateSources } from "./chat/chat-template.ts";
import { describeTemplate } from "./chat/template-probes.ts";
import { isRecord, type JsonRecord } from "./json-record.ts";
import { readTokenizer, type TokenizerReading } from "./tokenizer-json.ts";

/** A path on this machine, or the content. */
export type ModelFile = string | Uint8Array;

export interface TokenizerFiles {
  /** tokenizer.json. */
  readonly tokenizer: ModelFile;
  /** tokenizer_config.json. */
  readonly tokenizerConfig?: ModelFile | undefined;
  /** chat_template.jinja, or chat_template.json. */
  readonly chatTemplate?: ModelFile | undefined;
  /** config.json. */
  readonly config?: ModelFile | undefined;
}

export interface ModelDescription {
  readonly tokenizer: TokenizerReading;
  /** Undefined: no chat template, or none that can be used (`templateFailure`). */
  readonly template: ChatTemplateSpec | undefined;
  readonly templateFailure: string | undefined;
  /** Ids that clients send are below it; the model may have more than its tokenizer. */
  readonly configuredVocabulary: number;
}

/** Throws when the tokenizer cannot be read. Takes long: a vocabulary is some hundred thousand tokens. */
export function describeModel(files: TokenizerFiles, modelName: string): ModelDescription {
  const config = readConfig(files.config);
  const tokenizerConfig = readRecord(files.tokenizerConfig, "tokenizer_config.json");
  const tokenizer = readTokenizer(textOf(files.tokenizer), tokenizerConfig);
  const vocabularySize = config["vocab_size"];
  const configuredVocabulary = typeof vocabularySize === "number" ? vocabularySize : 0;
  try {
    const sources = readTemplateSources(tokenizerConfig, readTemplateFile(files.chatTemplate));
    const modelType = typeof config["model_type"] === "string" ? config["model_type"] : undefined;
    const template =
      sources === undefined
        ? undefined
        : describeTemplate(sources, tokenizerConfig, hasOwnFormatter(modelType, modelName));
    return { tokenizer, template, templateFailure: undefined, configuredVocabulary };
  } catch (error) {
    const templateFailure = error instanceof Error ? error.message : String(error);
    return { tokenizer, template: undefined, templateFailure, configuredVocabulary };
  }
}

export function textOf(file: ModelFile): string {
  return typeof file === "string" ? readFileSync(file, "utf8") : Buffer.from(file).toString("utf8");
}

export function readRecord(file: ModelFile | undefined, name: string): JsonRecord {
  if (file === undefined) return {};
  const value: unknown = JSON.parse(textOf(file));
  if (!isRecord(value)) throw new TypeError(`${name} is not a JSON object`);
  return value;
}

/** config.json may hold NaN and Infinity; only two of its fields matter here. */
function readConfig(file: ModelFile | undefined): JsonRecord {
  if (file === undefined) return {};
  const text = textOf(file);
  try {
    const value: unknown = JSON.parse(text);
    return isRecord(value) ? value : {};
  } catch {
    const modelType = /"model_type"\s*:\s*"([^"\\]*)"/.exec(text)?.[1];
    const vocabularySize = /"vocab_size"\s*:\s*([0-9]+)/.exec(text)?.[1];
    return { model_type: modelType, ...(vocabularySize === undefined ? {} : { vocab_size: Number(vocabularySize) }) };
  }
}

/** A .json file holds the template as `chat_template`. */
function readTemplateFile(file: ModelFile | undefined): string | undefined {
  if (file === undefined) return undefined;
  const text = textOf(file);
  if (!text.trimStart().startsWith('{"') && !(typeof file === "string" && file.endsWith(".json"))) return text;
  const value: unknown = JSON.parse(text);
  const template = isRecord(value) ? value["chat_template"] : undefined;
  return typeof template === "string" ? template : text;
}
