/**
 * Watches a folder of certificates. Kubernetes swaps a symbolic link (..data), other writers rewrite the files one after the other; so any
 * event only means "look again", and a pair that is not valid yet changes nothing.
 */
import { type FSWatcher, watch } from "node:fs";
import type { TlsMaterial } from "./grpc/transport.ts";
import { loadCertificates, type TlsLimits } from "./tls.ts";

/** Writers touch several files; one look afterwards is enough. */
const settleMs = 100;
/** A net under file events, which network file systems and a replaced folder do not deliver. */
const defaultPollIntervalMs = 30_000;

export interface WatchOptions extends TlsLimits {
  /** What is in use now; without it the first look is taken for that. */
  readonly current?: TlsMaterial;
  readonly pollIntervalMs?: number;
}

export interface CertificateWatcher {
  close(): Promise<void>;
}

/** Calls `onChange` with each new valid pair, and `onError` once for each fault that differs from the last; the last good pair stays in use. */
export function watchCertificates(
  directory: string,
  onChange: (material: TlsMaterial) => void,
  onError: (error: unknown) => void,
  options: WatchOptions = {},
): CertificateWatcher {
  const watcher = new Watcher(directory, onChange, onError, options);
  watcher.start();
  return watcher;
}

class Watcher implements CertificateWatcher {
  private readonly directory: string;
  private readonly onChange: (material: TlsMaterial) => void;
  private readonly onError: (error: unknown) => void;
  private readonly options: WatchOptions;
  private current: TlsMaterial | undefined;
  private lastFault: string | undefined;
  private fsWatcher: FSWatcher | undefined;
  private settleTimer: NodeJS.Timeout | undefined;
  private pollTimer: NodeJS.Timeout | undefined;
  private looking: Promise<void> | undefined;
  private lookAgain: boolean;
  private closed: boolean;

  constructor(
    directory: string,
    onChange: (material: TlsMaterial) => void,
    onError: (error: unknown) => void,
    options: WatchOptions,
  ) {
    this.directory = directory;
    this.onChange = onChange;
    this.onError = onError;
    this.options = options;
    this.current = options.current;
    this.lastFault = undefined;
    this.fsWatcher = undefined;
    this.settleTimer = undefined;
    this.pollTimer = undefined;
    this.looking = undefined;
    this.lookAgain = false;
    this.closed = false;
  }

  start(): void {
    this.watchFolder();
    this.pollTimer = setInterval(() => {
      if (this.fsWatcher === undefined) this.watchFolder();
      this.look();
    }, this.options.pollIntervalMs ?? defaultPollIntervalMs);
    this.pollTimer.unref();
    this.look();
  }

  async close(): Promise<void> {
    this.closed = true;
    this.fsWatcher?.close();
    clearTimeout(this.settleTimer);
    clearInterval(this.pollTimer);
    await this.looking;
  }

  /** Without a watcher (the folder is gone, or inotify's limit is met) polling goes on and tries again. */
  private watchFolder(): void {
    try {
      const fsWatcher = watch(this.directory, { persistent: false }, () => this.settle());
      fsWatcher.on("error", () => {
        fsWatcher.close();
        this.fsWatcher = undefined;
      });
      this.fsWatcher = fsWatcher;
    } catch {
      this.fsWatcher = undefined;
    }
  }

  /** After a fault the folder may be another one of the same name, which the old watcher does not see. */
  private watchAgain(): void {
    this.fsWatcher?.close();
    this.watchFolder();
  }

  private settle(): void {
    if (this.closed) return;
    clearTimeout(this.settleTimer);
    this.settleTimer = setTimeout(() => this.look(), settleMs);
    this.settleTimer.unref();
  }

  private look(): void {
    if (this.looking !== undefined) {
      this.lookAgain = true;
      return;
    }
    this.looking = this.reload().finally(() => {
      this.looking = undefined;
      if (!this.lookAgain || this.closed) return;
      this.lookAgain = false;
      this.look();
    });
  }

  private async reload(): Promise<void> {
    const { minVersion, ciphers } = this.options;
    try {
      const material = await loadCertificates(this.directory, {
        ...(minVersion === undefined ? {} : { minVersion }),
        ...(ciphers === undefined ? {} : { ciphers }),
      });
      if (this.closed) return;
      if (this.lastFault !== undefined) this.watchAgain();
      this.lastFault = undefined;
      const { current } = this;
      this.current = material;
      if (current !== undefined && (current.cert !== material.cert || current.key !== material.key)) {
        this.onChange(material);
      }
    } catch (error) {
      const fault = String((error as { message?: unknown }).message);
      if (this.closed || fault === this.lastFault) return;
      this.lastFault = fault;
      this.onError(error);
    }
  }
}
