/** The indices that this process serves to other routers, by component; the port and the registration are the fleet's. */
import type { Component } from "./index-instances.ts";
import { ServedComponent, type ServedComponentInit, type ServedIndex } from "./served-component.ts";

export type IndexServiceInit = Omit<ServedComponentInit, "component">;

/** A set whose card changes is gone for a moment: its endpoint need not go with it. */
const lingerMs = 5000;

export class IndexService {
  readonly #init: IndexServiceInit;
  readonly #components = new Map<string, ServedComponent>();
  /** By component, until it is served again. */
  readonly #lingering = new Map<string, NodeJS.Timeout>();
  readonly #closing = new Map<string, Promise<void>>();
  #isClosed = false;

  constructor(init: IndexServiceInit) {
    this.#init = init;
  }

  /** Answers for a model on a component from now on; returns what ends that. */
  serve(component: Component, model: string, index: ServedIndex): () => void {
    if (this.#isClosed) return () => undefined;
    const key = `${component.namespace}/${component.component}`;
    clearTimeout(this.#lingering.get(key));
    this.#lingering.delete(key);
    let served = this.#components.get(key);
    if (served === undefined) {
      const { namespace, component: name } = component;
      const after = this.#closing.get(key) ?? Promise.resolve();
      served = new ServedComponent({ ...this.#init, component: { namespace, component: name } }, after);
      this.#components.set(key, served);
    }
    if (!served.add(model, index)) {
      this.#init.log.error({ ...component, model }, "an index is not served: another set of this model is");
      return () => undefined;
    }
    const of = served;
    return () => {
      of.remove(model);
      if (of.isEmpty && !this.#isClosed) this.#linger(key, of);
    };
  }

  /** For /debug. */
  state(): Readonly<Record<string, unknown>> {
    return Object.fromEntries(Array.from(this.#components, ([key, component]) => [key, component.state()]));
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    for (const timer of this.#lingering.values()) clearTimeout(timer);
    await Promise.all([...[...this.#components.values()].map((served) => served.close()), ...this.#closing.values()]);
    this.#components.clear();
  }

  #linger(key: string, served: ServedComponent): void {
    const timer = setTimeout(() => {
      this.#lingering.delete(key);
      this.#components.delete(key);
      const closed = served.close().then(() => {
        if (this.#closing.get(key) === closed) this.#closing.delete(key);
      });
      this.#closing.set(key, closed);
    }, lingerMs);
    timer.unref();
    this.#lingering.set(key, timer);
  }
}
