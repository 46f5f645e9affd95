// @openai/agents in Node. Usage: node agents.mjs URL KEY. Prints what it saw as one line of JSON.
import * as sdk from "@openai/agents/realtime";
import { talk } from "./agents_scenario.mjs";

console.log(JSON.stringify(await talk(sdk, ...process.argv.slice(2))));
process.exit(0);
