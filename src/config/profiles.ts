/** The profiles and who chooses between them: references checked, pickers and the profile handler added where none is named. */
import type { ProfileEntry } from "./complete-config.ts";
import { defaultHandler, defaultPicker } from "./defaults.ts";
import type { PluginSet } from "./plugin-set.ts";
import type { Findings, RawProfile } from "./raw-config.ts";

const roles = ["filter", "scorer", "picker"] as const;

export function completeProfiles(
  listed: readonly RawProfile[] | undefined,
  plugins: PluginSet,
  findings: Findings,
): readonly ProfileEntry[] {
  if (listed === undefined || listed.length === 0) return [withPicker(profileOfEverything(plugins), plugins)];
  const names = new Set<string>();
  return listed.map((profile, index) => {
    const place = `schedulingProfiles[${index}]`;
    if (names.has(profile.name)) {
      findings.faults.push(`${place}.name: a profile named ${JSON.stringify(profile.name)} exists already`);
    }
    names.add(profile.name);
    return withPicker({ name: profile.name, plugins: references(profile, place, plugins, findings) }, plugins);
  });
}

/** A saturation detector that can also filter is listed to be asked by admission; only a profile that names it filters by it. */
function profileOfEverything(plugins: PluginSet): ProfileEntry {
  const taken = plugins
    .all()
    .filter(
      ({ definition: { kinds } }) =>
        roles.some((role) => kinds.includes(role)) && !kinds.includes("saturation-detector"),
    );
  return { name: "default", plugins: taken.map(({ name }) => ({ pluginRef: name, weight: 1 })) };
}

function references(
  profile: RawProfile,
  place: string,
  plugins: PluginSet,
  findings: Findings,
): ProfileEntry["plugins"] {
  const seen = new Set<string>();
  const refs = (profile.plugins ?? []).map(({ pluginRef, weight }, position) => {
    const path = `${place}.plugins[${position}]`;
    const entry = plugins.resolve(pluginRef, `${path}.pluginRef`, roles);
    if (seen.has(pluginRef)) findings.warnings.push(`${path}: ${pluginRef} is in this profile twice, and counts twice`);
    seen.add(pluginRef);
    if (weight !== undefined && entry !== undefined && !entry.definition.kinds.includes("scorer")) {
      findings.warnings.push(`${path}.weight: ${pluginRef} is no scorer, so its weight has no effect`);
    }
    return { pluginRef, weight: weight ?? 1 };
  });
  const pickers = refs.filter(({ pluginRef }) => plugins.isKind(pluginRef, "picker"));
  if (pickers.length > 1) {
    const names = pickers.map(({ pluginRef }) => pluginRef).join(", ");
    findings.faults.push(`${place}.plugins: a profile has one picker; found ${names}`);
  }
  return refs;
}

/** The first picker of the configuration, else the default one. */
function withPicker(profile: ProfileEntry, plugins: PluginSet): ProfileEntry {
  if (profile.plugins.some(({ pluginRef }) => plugins.isKind(pluginRef, "picker"))) return profile;
  const configured = plugins.all().find(({ definition }) => definition.kinds.includes("picker"));
  const picker = configured?.name ?? plugins.addDefault(defaultPicker, `profile ${profile.name}`);
  return { ...profile, plugins: [...profile.plugins, { pluginRef: picker, weight: 1 }] };
}

/** Exactly one handler decides which profiles run; the default one runs the only profile there is. */
export function completeHandler(profileCount: number, plugins: PluginSet, findings: Findings): string {
  const handlers = plugins.all().filter(({ definition }) => definition.kinds.includes("profile-handler"));
  const handler = handlers[0];
  if (handlers.length > 1) {
    const names = handlers.map(({ name }) => name).join(", ");
    findings.faults.push(`plugins: exactly one profile handler may exist; found ${names}`);
  } else if (profileCount > 1 && (handler === undefined || handler.type === defaultHandler)) {
    findings.faults.push(
      `schedulingProfiles: ${profileCount} profiles need a profile handler that chooses between them (header-profile-handler); ${defaultHandler} runs one`,
    );
  }
  return handler?.name ?? plugins.addDefault(defaultHandler, "schedulingProfiles");
}
