/** A worker's ModelDeploymentCard: what it serves and with which files a prompt becomes its tokens. */

export type WorkerRole = "aggregated" | "prefill" | "decode" | "encode";

/** A file of the model with the digest that what is read must have. */
export interface CheckedFile {
  /** Local path, "file://", "http(s)://", or "hf://repo[@revision]/file". */
  readonly path: string;
  /** "blake3:<hex>". */
  readonly checksum: string;
  readonly sizeBytes: number | undefined;
}

export interface ModelCard {
  readonly displayName: string;
  readonly slug: string;
  readonly sourcePath: string | undefined;
  /** Names besides displayName under which the model is served. */
  readonly aliases: readonly string[];
  readonly config: CheckedFile | undefined;
  readonly tokenizer: CheckedFile | undefined;
  /** tokenizer_config.json: its `chat_template`, `bos_token` and so on. */
  readonly tokenizerConfig: CheckedFile | undefined;
  /** A template in a file of its own; goes before the one in tokenizerConfig. */
  readonly chatTemplate: CheckedFile | undefined;
  readonly generationConfig: CheckedFile | undefined;
  /** Tokens; 0 = no limit known. */
  readonly contextLength: number;
  readonly kvCacheBlockSize: number;
  /** "Chat", "Completions", "Prefill", …; empty for a prefill worker of 1.6. */
  readonly modelTypes: readonly string[];
  readonly modelInput: "Tokens" | "Text" | "Tensor";
  /** Undefined in cards before 1.3, whose workers do whole requests unless prefill workers stand beside them. */
  readonly role: WorkerRole | undefined;
  /** Any of these groups of roles must be present as a whole for the worker to serve. */
  readonly needs: readonly (readonly WorkerRole[])[];
  readonly lora: { readonly name: string; readonly maxAdapters: number | undefined } | undefined;
  readonly runtime: RuntimeConfig;
  /** What must agree between the workers of one set; equal cards have equal fingerprints. */
  readonly fingerprint: string;
}

export interface EndpointName {
  readonly namespace: string;
  readonly component: string;
  readonly endpoint: string;
}

export interface ChatConfig {
  readonly toolCallParser: string | undefined;
  readonly reasoningParser: string | undefined;
  /** "json_string" or "json_object". */
  readonly toolCallArgumentsFormat: string | undefined;
  readonly defaultThinkingMode: string | undefined;
  readonly excludesToolsWhenChoiceNone: boolean;
  /** The card asks for additions to the prompt (`prompt_context`). */
  readonly hasPromptContext: boolean;
}

/** What must agree between workers that read each other's pages. */
export interface HicacheLayout {
  /** "mooncake"; others are not followed. */
  readonly backend: string;
  /** Tokens. */
  readonly pageSize: number;
  readonly tpSize: number;
  readonly ppSize: number;
  readonly isMla: boolean;
  /** Pages are of token pairs, as speculative decoding with EAGLE has them. */
  readonly isEagle: boolean;
  readonly tpLcmSize: number | undefined;
  readonly splitsHeads: boolean;
  readonly extraBackendTag: string | undefined;
  /** All that stands before a page's hash in its keys, without the underscore between; workers before 1.6 do not say. */
  readonly keyPrefix: string | undefined;
}

/** What a card says of a shared cache. One that cannot be read makes the worker none the worse: it is as if it had none. */
export type HicacheCard =
  | { readonly kind: "hicache"; readonly layout: HicacheLayout; readonly eventsEndpoint: string | undefined }
  | { readonly kind: "unreadable"; readonly reason: string };

export interface RuntimeConfig {
  readonly totalKvBlocks: number | undefined;
  readonly maxNumSeqs: number | undefined;
  readonly maxNumBatchedTokens: number | undefined;
  readonly dataParallelStartRank: number;
  readonly dataParallelSize: number;
  readonly hasLocalIndexer: boolean;
  readonly publishesKvEvents: boolean;
  readonly isEagle: boolean;
  /** What else decides the text that a chat becomes. */
  readonly chat?: ChatConfig;
  readonly taints: readonly string[];
  readonly stableRoutingId: string | undefined;
  readonly topologyDomains: ReadonlyMap<string, string>;
  readonly kvTransferDomain: string | undefined;
  readonly kvTransferEnforcement: "required" | "preferred" | undefined;
  readonly kvTransferPreferredWeight: number | undefined;
  /** The Mooncake store behind its cache; absent: it has none. */
  readonly hicache?: HicacheCard;
  /** Whose event sources describe this worker's KV cache; absent: its own endpoint. */
  readonly kvStateEndpoint?: EndpointName;
}
