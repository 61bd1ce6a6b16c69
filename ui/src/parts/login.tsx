import { useState } from "preact/hooks";
import { ApiError, post } from "../api";
import { refreshMe } from "../app";

/** Asks for a token; it is kept in a cookie that scripts cannot read. */
export function Login() {
  const [token, setToken] = useState("");
  const [error, setError] = useState("");
  const send = async (event: Event) => {
    event.preventDefault();
    try {
      await post("login", { token: token.trim() });
      await refreshMe();
      location.reload();
    } catch (failure) {
      setError(failure instanceof ApiError ? `${failure.message}. ${failure.hint}` : String(failure));
    }
  };
  return (
    <form class="login panel" onSubmit={send}>
      <h2>A token, please</h2>
      <p>
        This node shows beamtimes to whoever has a token for them. One is made by{" "}
        <code>beamstream token new --beamtime ID --access read</code>.
      </p>
      <label>
        Token
        <input
          type="password"
          autocomplete="off"
          value={token}
          onInput={(event) => setToken(event.currentTarget.value)}
        />
      </label>
      <button type="submit">Show</button>
      {error && <p role="alert">{error}</p>}
    </form>
  );
}
