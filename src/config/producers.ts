/**
 * Which producer each plugin reads from. A needed producer that is not configured is added; a plugin that names none follows the only one
 * there is, whatever its name (the reference adds a second one beside a renamed one, and scores zeros).
 */
import { markedParameters } from "./parameter-schema.ts";
import type { PluginSet, SetEntry } from "./plugin-set.ts";
import type { Findings } from "./raw-config.ts";

interface Slot {
  readonly path: string;
  readonly holder: Record<string, unknown>;
  readonly key: string;
  readonly producerType: string;
}

/** Adds missing producers and writes the names of producers into the parameters that name them. */
export function completeProducers(plugins: PluginSet, findings: Findings): void {
  const visited = new Set<string>();
  for (let entry = unvisited(plugins, visited); entry !== undefined; entry = unvisited(plugins, visited)) {
    visited.add(entry.name);
    const named = new Set(slotsOf(entry).flatMap((slot) => (givenName(slot) === undefined ? [] : [slot.producerType])));
    for (const type of needsOf(entry)) if (!named.has(type)) plugins.addDefault(type, entry.name);
  }
  for (const entry of plugins.all()) {
    for (const slot of slotsOf(entry)) fill(slot, entry, plugins, findings);
    checkMentions(entry, plugins, findings);
  }
}

function unvisited(plugins: PluginSet, visited: ReadonlySet<string>): SetEntry | undefined {
  return plugins.all().find(({ name }) => !visited.has(name));
}

function needsOf({ definition, parameters }: SetEntry): readonly string[] {
  return definition.readsFromNeeds?.(parameters) === false ? [] : (definition.needs ?? []);
}

function slotsOf({ definition, parameters }: SetEntry): readonly Slot[] {
  return markedParameters(definition.parameters, parameters, "x-producer").map(({ path, schema, holder, key }) => ({
    path,
    holder,
    key,
    producerType: String(schema["x-producer"]),
  }));
}

function givenName({ holder, key }: Slot): string | undefined {
  const given = holder[key];
  return typeof given === "string" && given !== "" ? given : undefined;
}

function fill(slot: Slot, entry: SetEntry, plugins: PluginSet, { faults }: Findings): void {
  const path = `${entry.place}.parameters.${slot.path}`;
  const candidates = plugins.ofType(slot.producerType);
  const names = candidates.map(({ name }) => name).join(", ");
  const given = givenName(slot);
  if (given === undefined) {
    if (candidates.length > 1) faults.push(`${path}: name the ${slot.producerType} to read from: ${names}`);
    if (candidates[0] === undefined) delete slot.holder[slot.key];
    else slot.holder[slot.key] = candidates[0].name;
  } else if (plugins.get(given) === undefined && names !== "") {
    faults.push(`${path}: no plugin named ${JSON.stringify(given)}; the ${slot.producerType} here is ${names}`);
  } else plugins.resolve(given, path, ["data-producer"]);
}

/** Names of other plugins that are only mentioned: a misspelt one would read nothing, silently. */
function checkMentions({ definition, parameters, place }: SetEntry, plugins: PluginSet, { faults }: Findings): void {
  for (const { path, holder, key } of markedParameters(definition.parameters, parameters, "x-plugin")) {
    const name = holder[key];
    if (typeof name !== "string" || name === "" || plugins.get(name) !== undefined || plugins.isBroken(name)) continue;
    faults.push(`${place}.parameters.${path}: ${plugins.missing(name)}`);
  }
  for (const { path, schema, holder, key } of markedParameters(definition.parameters, parameters, "x-published-by")) {
    const type = String(schema["x-published-by"]);
    if (holder[key] === undefined || plugins.ofType(type).length > 0 || plugins.isBroken(type)) continue;
    faults.push(
      `${place}.parameters.${path}: nothing publishes ${JSON.stringify(holder[key])}; add a ${type} to plugins`,
    );
  }
}

/** Stable order in which each plugin comes after those it reads from. A cycle is a fault. */
export function inProducerOrder(plugins: PluginSet, { faults }: Findings): readonly SetEntry[] {
  const ordered = new Set<SetEntry>();
  const open = new Set<SetEntry>();
  const visit = (entry: SetEntry): void => {
    if (ordered.has(entry)) return;
    if (open.has(entry)) {
      const cycle = [...open].slice([...open].indexOf(entry));
      faults.push(`plugins: ${[...cycle, entry].map(({ name }) => name).join(" needs ")}: a cycle`);
      return;
    }
    open.add(entry);
    for (const source of readsFrom(entry, plugins)) visit(source);
    open.delete(entry);
    ordered.add(entry);
  };
  for (const entry of plugins.all()) visit(entry);
  return [...ordered];
}

function readsFrom(entry: SetEntry, plugins: PluginSet): readonly SetEntry[] {
  const slots = slotsOf(entry);
  const byName = slots.flatMap((slot) => plugins.get(givenName(slot) ?? "") ?? []);
  const named = new Set(slots.map(({ producerType }) => producerType));
  const byType = needsOf(entry).filter((type) => !named.has(type));
  return [...byName, ...byType.flatMap((type) => plugins.ofType(type))];
}
