import { signal } from "@preact/signals";
import { useState } from "preact/hooks";
import { ApiError, post } from "../api";
import { me } from "../app";

export const showLogin = signal(false);

/** As whom this page asks, and how to be somebody else. */
export function Who() {
  const role = me.value?.role;
  if (!role) return null;
  const logout = () => post("logout").then(() => location.reload());
  return (
    <p class="who">
      <span data-testid="role">{role}</span>{" "}
      {role === "viewer" ? (
        <button
          type="button"
          class="copy"
          aria-expanded={showLogin.value}
          onClick={() => {
            showLogin.value = !showLogin.value;
          }}
        >
          log in
        </button>
      ) : (
        <button type="button" class="copy" onClick={() => void logout()}>
          log out
        </button>
      )}
    </p>
  );
}

/** Asks for a token; it is kept in a cookie that scripts cannot read. */
export function Login() {
  const [token, setToken] = useState("");
  const [error, setError] = useState("");
  const send = async (event: Event) => {
    event.preventDefault();
    try {
      await post("login", { token: token.trim() });
      location.reload();
    } catch (failure) {
      setError(failure instanceof ApiError ? `${failure.message}. ${failure.hint}` : String(failure));
    }
  };
  return (
    <form class="login panel" onSubmit={send}>
      <h2>A token, please</h2>
      <p>
        A token that reads shows its beamtime; one that writes also lets you seek, replay and comment. It is made by{" "}
        <code>beamstream token new --beamtime ID --access read,write</code>.
      </p>
      <div class="row">
        <label class="wide">
          Token
          <input
            type="password"
            autocomplete="off"
            value={token}
            onInput={(event) => setToken(event.currentTarget.value)}
          />
        </label>
        <button type="submit">Log in</button>
      </div>
      {error && <p role="alert">{error}</p>}
    </form>
  );
}
