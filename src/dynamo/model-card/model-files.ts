/**
 * The files a model card names, made local: every one is read to its end and must have the digest the card gives it, whoever hands it out.
 * Nothing is fetched from a model hub.
 */
import { lstat, mkdir } from "node:fs/promises";
import { tmpdir, userInfo } from "node:os";
import { join } from "node:path";
import type { Logger } from "../../telemetry/log.ts";
import { type FetchOptions, localCopyOf, shownPath } from "./checked-file.ts";
import type { CheckedFile, ModelCard } from "./model-card.ts";

/** Local paths; what the card does not name is undefined. The files are not to be written to. */
export interface LocalModelFiles {
  readonly tokenizer: string | undefined;
  readonly tokenizerConfig: string | undefined;
  readonly chatTemplate: string | undefined;
  readonly config: string | undefined;
  readonly generationConfig: string | undefined;
}

export type ModelFilesState =
  | { readonly kind: "loading" }
  | { readonly kind: "ready"; readonly files: LocalModelFiles }
  /** Tried again later. */
  | { readonly kind: "failed"; readonly reason: string };

export type LoadOutcome = Exclude<ModelFilesState, { readonly kind: "loading" }>;

export interface ModelFilesOptions {
  readonly log: Logger;
  /** Fetched files by digest. Default: a folder of the system's temporary folder. */
  readonly cacheDir?: string;
  /** `--model-path`: where files lie that are on another host's disk or in a model hub; also by model in folders of the model's slug. */
  readonly modelPath?: string | undefined;
  /** Of one file from beginning to end. Default 300 s, as Dynamo's. */
  readonly timeoutMs?: number;
}

/** Many times the largest tokenizer.json there is; and what is read beside it is small. */
const maxTokenizerBytes = 256 * 1024 * 1024;
const maxSmallFileBytes = 16 * 1024 * 1024;

export function defaultCacheDir(): string {
  return join(tmpdir(), `signalbox-model-files-${userInfo().uid}`);
}

/** In a folder that all may write to, one of that name may be somebody else's. */
async function isOwnFolder(path: string): Promise<boolean> {
  await mkdir(path, { recursive: true, mode: 0o700 });
  const state = await lstat(path);
  return state.isDirectory() && state.uid === userInfo().uid;
}

/** Never rejects: what cannot be had is an outcome that names the file and why. */
export async function loadModelFiles(
  card: ModelCard,
  options: ModelFilesOptions,
  signal?: AbortSignal,
): Promise<LoadOutcome> {
  const cacheDir = options.cacheDir ?? defaultCacheDir();
  if (options.cacheDir === undefined && !(await isOwnFolder(cacheDir).catch(() => false)))
    return { kind: "failed", reason: `${cacheDir} is not a folder of this process's user` };
  const fetching: Omit<FetchOptions, "fetching" | "maxBytes"> = {
    cacheDir,
    folders: foldersOf(card, options.modelPath),
    timeoutMs: options.timeoutMs ?? 300_000,
    signal: signal ?? new AbortController().signal,
  };
  // Tensor models bring no tokenizer and no template; their cards may name weights.
  const isTensor = card.modelInput === "Tensor";
  const local = async (name: string, file: CheckedFile | undefined): Promise<string | undefined> => {
    if (file === undefined || isTensor) return undefined;
    const shown = shownPath(file);
    const copy = await localCopyOf(file, {
      ...fetching,
      maxBytes: file === card.tokenizer ? maxTokenizerBytes : maxSmallFileBytes,
      fetching: () =>
        options.log.info({ model: card.displayName, url: shown }, "a file that a worker's card names is fetched"),
    });
    if (copy.kind === "local") return copy.path;
    throw new FileFailure(`${name} ${shown}: ${copy.reason}`);
  };
  try {
    return {
      kind: "ready",
      files: {
        tokenizer: await local("tokenizer", card.tokenizer),
        tokenizerConfig: await local("tokenizer config", card.tokenizerConfig),
        chatTemplate: await local("chat template", card.chatTemplate),
        config: await local("config", card.config),
        generationConfig: await local("generation config", card.generationConfig),
      },
    };
  } catch (error) {
    if (error instanceof FileFailure) return { kind: "failed", reason: error.message };
    throw error;
  }
}

function foldersOf({ slug }: ModelCard, modelPath: string | undefined): readonly string[] {
  if (modelPath === undefined) return [];
  const isName = /^[A-Za-z0-9._-]+$/.test(slug) && !/^\.+$/.test(slug);
  return isName ? [modelPath, join(modelPath, slug)] : [modelPath];
}

class FileFailure extends Error {}
