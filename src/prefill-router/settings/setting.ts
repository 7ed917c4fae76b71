/** What one setting of the router is: Dynamo's name, what values it takes, its default and the environment variables that set it. */

export type SettingKind =
  | { readonly kind: "number"; readonly min: number; readonly max?: number; readonly isFinite?: boolean }
  | { readonly kind: "integer"; readonly min: number; readonly max?: number }
  | { readonly kind: "boolean" }
  | { readonly kind: "string" }
  | {
      readonly kind: "choice";
      readonly values: readonly string[];
      readonly aliases?: Readonly<Record<string, string>>;
      /** Dynamo ignores an unknown value instead of refusing to start. */
      readonly isLenient?: boolean;
    };

export type SettingValue = number | boolean | string | undefined;

export interface Setting {
  /** Field of KvRouterConfig, e.g. "router_ttl_secs", or like one; the parameter is the same in camelCase. */
  readonly field: string;
  readonly kind: SettingKind;
  readonly defaultValue: SettingValue;
  /** The first that is set and can be read counts. */
  readonly environment: readonly string[];
  readonly description: string;
  /** May also be set by the `router` section of the policy file. */
  readonly isPolicySetting?: boolean;
}

export const weight = { kind: "number", min: 0, isFinite: true } as const;
export const share = { kind: "number", min: 0, max: 1 } as const;
export const atLeastZero = { kind: "number", min: 0 } as const;
export const truth = { kind: "boolean" } as const;
export const text = { kind: "string" } as const;
