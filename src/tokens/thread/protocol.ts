/** What the loop and the tokenizer thread say to each other. One job runs at a time, so answers carry no more than their job's number. */
import type { ChatOptions } from "../chat/chat-renderer.ts";
import type { PromptDialect, TokenizeOutcome } from "../prompt-tokenizer.ts";
import type { ModelDescription, TokenizerFiles } from "../tokenizer-files.ts";

export interface ModelSource {
  readonly files: TokenizerFiles;
  readonly name: string;
  readonly chat: ChatOptions;
  readonly segmentCacheBytes: number;
}

export type ThreadRequest =
  /** Read the files; answered with their description. */
  | { readonly kind: "load"; readonly job: number; readonly model: number; readonly source: ModelSource }
  /** A model that an earlier thread has read; not answered. */
  | {
      readonly kind: "adopt";
      readonly model: number;
      readonly source: ModelSource;
      readonly description: ModelDescription;
    }
  | { readonly kind: "forget"; readonly model: number }
  | {
      readonly kind: "tokenize";
      readonly job: number;
      readonly model: number;
      readonly dialect: PromptDialect;
      readonly body: Uint8Array;
    };

export type ThreadAnswer =
  | { readonly kind: "loaded"; readonly job: number; readonly description: ModelDescription; readonly idLimit: number }
  | { readonly kind: "outcome"; readonly job: number; readonly outcome: TokenizeOutcome }
  | { readonly kind: "failed"; readonly job: number; readonly message: string };
