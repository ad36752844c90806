// Run the scenarios of a client: one line of JSON names a scenario and its arguments, one line is its result.
import { createInterface } from 'node:readline';

export async function serve(scenarios) {
  const write = process.stdout.write.bind(process.stdout);
  process.stdout.write = process.stderr.write.bind(process.stderr); // what a library prints goes to the errors
  for await (const line of createInterface({ input: process.stdin })) {
    const { scenario, ...given } = JSON.parse(line);
    let answer;
    try {
      answer = { result: (await scenarios[scenario](given)) ?? null };
    } catch (error) {
      answer = { error: `${error.stack} ${error.responseBody ?? ''}` };
    }
    write(JSON.stringify(answer) + '\n');
  }
}
