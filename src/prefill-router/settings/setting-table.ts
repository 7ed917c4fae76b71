/**
 * Every setting of the router in one place. The environment reader, the parameter schema and the checks are all drawn from it.
 */
import { costSettings } from "./cost-settings.ts";
import { flowSettings } from "./flow-settings.ts";
import type { Setting } from "./setting.ts";

export const settingTable = { ...costSettings, ...flowSettings } as const satisfies Readonly<Record<string, Setting>>;

export type SettingName = keyof typeof settingTable;

export const settings = Object.entries(settingTable) as readonly (readonly [SettingName, Setting])[];

type ValueOf<Kind> = Kind extends { readonly kind: "choice"; readonly values: readonly (infer Choice)[] }
  ? Choice
  : Kind extends { readonly kind: "boolean" }
    ? boolean
    : Kind extends { readonly kind: "string" }
      ? string
      : number;

/** The settings of the router, complete. Names are Dynamo's, in camelCase. */
export type RouterConfig = {
  readonly [Name in SettingName]:
    | ValueOf<(typeof settingTable)[Name]["kind"]>
    | (undefined extends (typeof settingTable)[Name]["defaultValue"] ? undefined : never);
};

export type RouterSettings = { readonly [Name in SettingName]?: RouterConfig[Name] | undefined };
