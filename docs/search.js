// Browsers give no worker to a page that was opened from disk. The search's worker then runs in a frame of the page.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    #frame = document.createElement("iframe")
    #loaded

    constructor(url) {
      super()
      this.#frame.hidden = true
      document.body.append(this.#frame)
      const inside = this.#frame.contentWindow
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }))
      const script = inside.document.createElement("script")
      script.src = url
      this.#loaded = new Promise((resolve) => script.addEventListener("load", resolve))
      inside.document.body.append(script)
    }

    async postMessage(data) {
      await this.#loaded
      const inside = this.#frame.contentWindow
      inside.dispatchEvent(new inside.MessageEvent("message", { data }))
    }
  }
}
